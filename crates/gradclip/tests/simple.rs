//! Global-norm clipping in one line.

use std::collections::BTreeMap;

use gradclip::{ClipAction, ClipError, clip_global_norm};

#[test]
fn replay_equals_the_rule_of_a_clipper() {
    let mut gradients =
        BTreeMap::from([("w", vec![-2.0_f32, 0.0, 0.0, 4.0]), ("b", vec![1.0, -2.0])]);
    let report = clip_global_norm(&mut gradients, 4.0).unwrap();
    assert_eq!((report.norm_before, report.norm_after), (5.0, 4.0));
    assert_eq!(gradients["w"], [-1.6, 0.0, 0.0, 3.2]);
    assert_eq!(
        clip_global_norm(&mut gradients, 4.5).unwrap().action,
        ClipAction::Keep
    );
    // Also for trait objects.
    let tensors: &mut dyn gradclip::Gradients = &mut gradients;
    assert!(clip_global_norm(tensors, f64::INFINITY).is_ok());
}

#[test]
fn errors_leave_gradients_unchanged() {
    let mut gradients = [("w", [3.0_f64, f64::NAN])];
    let error = clip_global_norm(&mut gradients, 1.0).unwrap_err();
    let tensors = vec![("w".to_owned(), 1)];
    assert_eq!(error, ClipError::NonFinite { tensors });
    assert_eq!(gradients[0].1[0], 3.0);
    for max_norm in [0.0, -1.0, f64::NAN] {
        let error = clip_global_norm(&mut gradients, max_norm).unwrap_err();
        assert!(matches!(error, ClipError::Policy(_)), "{error}");
    }
}
