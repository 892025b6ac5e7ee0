//! The text forms of policies: what is accepted, what is refused, and the messages.

use gradclip::{ClipPolicy, ClipRule, NonFinite, NormOrder, PolicyError, Threshold};

#[test]
fn accepted_forms_and_their_printed_form() {
    let cases = [
        ("none", "none"),
        ("value:1", "value:1"),
        ("value:.5", "value:0.5"),
        ("value:1e-25", "value:1e-25"),
        ("norm:inf", "norm:inf"),
        ("norm:1e-3,p=2.0", "norm:0.001"),
        ("norm:1,p=inf", "norm:1,p=inf"),
        ("global-norm:5", "global-norm:5"),
        ("global-norm:+5.0,p=1.5", "global-norm:5,p=1.5"),
        ("global-norm:1e-300,p=0.5", "global-norm:1e-300,p=0.5"),
        ("global-norm:1..0.1@1000", "global-norm:1..0.1@1000"),
        ("global-norm:2..2@1,p=inf", "global-norm:2..2@1,p=inf"),
        ("group-norm:inf", "group-norm:inf"),
        ("block-rms:1e-25", "block-rms:1e-25"),
        ("normalize:1e+5", "normalize:100000"),
        ("agc:0.01", "agc:0.01"),
        ("agc:0.01,eps=0.001", "agc:0.01"),
        ("agc:0.01,unit=last", "agc:0.01,unit=last"),
        (
            "agc:0.1..0.01@7,unit=first,eps=inf",
            "agc:0.1..0.01@7,eps=inf,unit=first",
        ),
        ("autoclip:0", "autoclip:0"),
        ("autoclip:99.9", "autoclip:99.9"),
        ("zclip", "zclip"),
        ("zclip:max=1,z=2.5", "zclip"),
        (
            "zclip:max=inf,alpha=0,warmup=1",
            "zclip:alpha=0,warmup=1,max=inf",
        ),
        ("adagc:warmup=0,rel=1e-25", "adagc:rel=1e-25,warmup=0"),
        ("adagc:abs=2..1@5,beta=0.5", "adagc:abs=2..1@5,beta=0.5"),
        ("median:2,window=100", "median:2"),
        (
            "median:inf,window=4294967295",
            "median:inf,window=4294967295",
        ),
        ("skip:6", "skip:6"),
        ("skip:3,limit=4,window=8", "skip:3,window=8,limit=4"),
        ("update-rms:1", "update-rms:1"),
        ("spam", "spam"),
        ("spam:warmup=0,theta=inf", "spam:theta=inf,warmup=0"),
        ("value:1e+5+global-norm:+1", "value:100000+global-norm:1"),
        ("value:1+global-norm:1e+5", "value:1+global-norm:100000"),
        (
            "skip:3+agc:0.01+zclip+value:1..2@3",
            "skip:3+agc:0.01+zclip+value:1..2@3",
        ),
        ("spam+spam+value:1+value:1", "spam+spam+value:1+value:1"),
    ];
    for (text, printed) in cases {
        let policy: ClipPolicy = text.parse().unwrap();
        assert_eq!(policy.to_string(), printed);
        assert_eq!(printed.parse(), Ok(policy.clone()));
        let names: Vec<&str> = policy.rules().iter().map(ClipRule::name).collect();
        let first = names.first().copied().unwrap_or("none");
        assert!(printed.starts_with(first), "{printed}: {names:?}");
    }
}

/// The accepted forms in the error for an unknown rule.
const ALL_FORMS: &str = "accepted: none, value:C, norm:C[,p=P], global-norm:C[,p=P], \
    group-norm:C, block-rms:C, normalize:C, agc:LAMBDA[,eps=E][,unit=last|first], \
    autoclip:PERCENTILE, zclip[:z=Z,alpha=A,warmup=N,max=C], \
    adagc[:abs=C,rel=R,beta=B,warmup=N], median:K[,window=N], skip:SIGMA[,window=N][,limit=N], \
    update-rms:C, spam[:theta=T,reset=N,warmup=N], joined by `+`; a threshold C can change: \
    FROM..TO@STEPS";

/// Cases `TEXT | WORDS`, with `^` before the mistake in TEXT. Returns the text without `^`, the
/// words, and the position.
fn mistakes(cases: &str) -> impl Iterator<Item = (String, &str, usize)> {
    cases.lines().map(|case| {
        let (text, words) = case.split_once(" | ").expect("a case has words");
        let position = text.find('^').expect("a case has a place") + 1;
        (text.replacen('^', "", 1), words, position)
    })
}

#[track_caller]
fn assert_refused(text: &str, words: &str, expected_position: usize, accepted: &str) {
    let error = text.parse::<ClipPolicy>().expect_err(text);
    let message = error.to_string();
    assert!(message.contains(words), "{text:?}: {message}");
    assert!(message.ends_with(accepted), "{text:?}: {message}");
    assert!(!message.contains('\n'), "{message:?}");
    let PolicyError::Syntax { position, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(position, expected_position, "{text:?}: {message}");
}

#[test]
fn unknown_rules_list_all_forms() {
    let cases = "\
^ | unknown policy ``
^norn | unknown policy `norn`, did you mean `norm`?
^global_norm:1 | unknown policy `global_norm`, did you mean `global-norm`?
^globl-norm:1 | did you mean `global-norm`?
^Value:1 | did you mean `value`?
^off | did you mean `none`?
^0 | to turn clipping off use `none`
^1.5 | a threshold needs a policy: `global-norm:1.5`
^xyzzy:1 | unknown policy `xyzzy` at
^ none | did you mean `none`?
^zklip | did you mean `zclip`?
^autoclipp:10 | did you mean `autoclip`?
value:1+^medium:2 | unknown policy `medium`, did you mean `median`?
^nörm;1:1 | unknown policy
none^:1 | `none` takes no threshold
^none+value:1 | `none` cannot be combined with other rules
value:1+^none | `none` cannot be combined with other rules
^none+none | `none` cannot be combined with other rules
value:1+^ | a rule is missing
^+value:1 | a rule is missing
^+ | a rule is missing
value:1+^+norm:1 | a rule is missing";
    for (text, words, position) in mistakes(cases) {
        assert_refused(&text, words, position, ALL_FORMS);
    }
}

#[test]
fn threshold_errors_show_the_form_of_the_rule() {
    let cases = "\
norm^ | `norm` needs a threshold `:C`
norm:^ | the threshold is empty
norm:^1  | the threshold `1 ` is not a number
norm:^ 1 | the threshold ` 1` is not a number
norm:^1 0 | the threshold `1 0` is not a number
norm:^1x | the threshold `1x` is not a number
norm:^1:2 | the threshold `1:2` is not a number
norm:^0 | threshold must be greater than 0, got 0 (to turn clipping off use `none`)
norm:^-1 | must be greater than 0, got -1
norm:^nan | must be greater than 0, got NaN
norm:^-inf | must be greater than 0, got -inf
norm:^1e999 | the threshold `1e999` is too large for a number
norm:^1e-999 | must be greater than 0, got 0
norm:^,p=2 | the threshold is empty
norm:^p=2 | `norm` needs a threshold `:C` before `p=2`
norm:1,^ | a parameter of `norm` is missing
norm:1,^2 | `norm` does not take `2`
norm:1,^q=2 | `norm` does not take `q=2`
norm:1,p=^ | the parameter p is empty
norm:1,p=^0 | the parameter p must be greater than 0, got 0
norm:1,p=^-2 | the parameter p must be greater than 0, got -2
norm:1,p=^NaN | the parameter p must be greater than 0, got NaN
norm:1,p=^two | the parameter p `two` is not a number
norm:1,p=2,^p=2 | `p` is given twice
norm:1,p=2,^ | a parameter of `norm` is missing
norm:^1;p=2 | the threshold `1;p=2` is not a number
norm:^1..0.1 | `1..0.1` lacks the steps: FROM..TO@STEPS
norm:1..^@5 | the last threshold is empty
norm:^..1@5 | the first threshold is empty
norm:1..^x@5 | the last threshold `x` is not a number
norm:^0..1@5 | threshold must be greater than 0, got 0
norm:^1..nan@5 | threshold must be greater than 0, got NaN
norm:^1..inf@5 | a threshold that changes must be finite
norm:^inf..1@5 | a threshold that changes must be finite
norm:1..2@^ | the number of steps is empty
norm:1..2@^0 | the number of steps must be at least 1, got 0
norm:1..2@^1.5 | the number of steps `1.5` is not a whole number
norm:1..2@^4294967296 | `4294967296` is too large, at most 4294967295
norm:^1@5 | the threshold `1@5` is not a number
norm:^1+2 | the threshold `1+2` is not a number";
    for (text, words, position) in mistakes(cases) {
        assert_refused(&text, words, position, "accepted: norm:C[,p=P]");
        // Later rules of a chain give the same message, at their position.
        let chain = format!("value:1+{text}");
        assert_refused(&chain, words, position + 8, "accepted: norm:C[,p=P]");
    }
}

#[test]
fn parameter_errors_show_the_form_of_the_rule() {
    let cases = "\
value:1,^p=2 | `value` does not take `p=2`
group-norm^ | `group-norm` needs a threshold `:C`
group-norm:1,^p=2 | `group-norm` does not take `p=2`
block-rms:^ | the threshold is empty
normalize:^inf | a norm cannot be set to infinity
normalize^ | `normalize` needs a threshold `:C`
agc^ | `agc` needs a ratio `:LAMBDA`
agc:^eps=1 | `agc` needs a ratio `:LAMBDA` before `eps=1`
agc:^0 | the ratio must be greater than 0, got 0
agc:1,eps=^0 | the parameter eps must be greater than 0, got 0
agc:1,eps=1,^eps=2 | `eps` is given twice
agc:1,unit=^row | the parameter unit `row` is neither `last` nor `first`
agc:1,^units=last | `agc` does not take `units=last`
autoclip^ | `autoclip` needs a percentile `:PERCENTILE`
autoclip:^101 | the percentile must be from 0 to 100, got 101
autoclip:^-1 | the percentile must be from 0 to 100, got -1
autoclip:^10% | the percentile `10%` is not a number
autoclip:^nan | the percentile must be from 0 to 100, got NaN
zclip:^ | a parameter of `zclip` is missing
zclip:^2 | `zclip` does not take `2`
zclip:z=^0 | the parameter z must be greater than 0, got 0
zclip:alpha=^1 | the parameter alpha must be at least 0 and less than 1, got 1
zclip:warmup=^0 | the parameter warmup must be at least 1, got 0
zclip:warmup=^2.5 | the parameter warmup `2.5` is not a whole number
zclip:warmup=^-1 | the parameter warmup `-1` is not a whole number
zclip:max=^0 | the parameter max must be greater than 0, got 0
zclip:z=1,^z=1 | `z` is given twice
zclip:^threshold=1 | `zclip` does not take `threshold=1`
adagc:abs=^0 | the parameter abs must be greater than 0, got 0
adagc:rel=^x | the parameter rel `x` is not a number
adagc:beta=^1 | the parameter beta must be at least 0 and less than 1, got 1
adagc:beta=^ | the parameter beta is empty
adagc:warmup=^99999999999 | `99999999999` is too large
adagc:^1 | `adagc` does not take `1`
median^ | `median` needs a factor `:K`
median:^0 | the factor must be greater than 0, got 0
median:2,window=^0 | the parameter window must be at least 1, got 0
median:2,^100 | `median` does not take `100`
skip^ | `skip` needs a number of standard deviations `:SIGMA`
skip:^0 | the number of standard deviations must be greater than 0, got 0
skip:3,window=^0 | the parameter window must be at least 2
skip:3,window=^1 | the parameter window must be at least 2, got 1
skip:3,limit=^0 | the parameter limit must be at least 1, got 0
skip:3,window=8,^window=8 | `window` is given twice
update-rms:^0 | threshold must be greater than 0, got 0
update-rms:1,^2 | `update-rms` does not take `2`
spam:theta=^0 | the parameter theta must be greater than 0, got 0
spam:reset=^0 | the parameter reset must be at least 21, got 0
spam:reset=^20 | the parameter reset must be at least 21, got 20
spam:^5000 | `spam` does not take `5000`";
    for (text, words, position) in mistakes(cases) {
        let name = text.split(':').next().unwrap_or(&text);
        let forms = ALL_FORMS.trim_start_matches("accepted: ");
        let form = forms
            .split(", ")
            .find(|form| form.starts_with(name))
            .expect("a known name");
        assert_refused(&text, words, position, &format!("; accepted: {form}"));
    }
}

#[test]
fn a_line_break_in_the_text_does_not_break_the_message() {
    for text in ["norm:1\n", "no\nrm", "norm:1,p=\r2", "agc:1,unit=\u{1b}[1m"] {
        let message = text.parse::<ClipPolicy>().unwrap_err().to_string();
        assert!(!message.contains(char::is_control), "{message:?}");
    }
}

#[test]
fn thresholds_and_orders_are_validated() {
    for value in [0.0, -0.0, -1.0, f64::NAN, f64::NEG_INFINITY] {
        let message = Threshold::new(value).unwrap_err().to_string();
        assert!(message.contains("`none`"), "{message}");
        assert!(NormOrder::new(value).is_err());
    }
    for value in [5e-324, 1.0, f64::MAX, f64::INFINITY] {
        assert_eq!(Threshold::new(value).unwrap().at(0), value);
        assert_eq!(NormOrder::new(value).unwrap().get(), value);
    }
    assert_eq!(NormOrder::new(2.0), Ok(NormOrder::TWO));
    assert_eq!(NormOrder::new(f64::INFINITY), Ok(NormOrder::INFINITY));
    assert!("norm:1,p=2 ".parse::<ClipPolicy>().is_err());
}

#[test]
fn accessors() {
    let policy: ClipPolicy = "norm:3,p=inf".parse().unwrap();
    assert_eq!(
        (policy.rules().len(), policy.order()),
        (1, NormOrder::INFINITY)
    );
    assert_eq!(
        (ClipPolicy::none().is_none(), ClipPolicy::none().order()),
        (true, NormOrder::TWO)
    );
}

#[test]
fn non_finite_rules_round_trip() {
    for rule in [NonFinite::Error, NonFinite::Skip, NonFinite::Zero] {
        assert_eq!(rule.to_string().parse(), Ok(rule));
    }
    let message = "skpi".parse::<NonFinite>().unwrap_err().to_string();
    assert!(message.contains("did you mean `skip`?"), "{message}");
    assert!(message.contains("accepted: error, skip, zero"), "{message}");
}
