//! Compares results: every bit, but not the order of the tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use gradclip::{ClipError, ClipReport, TensorReport};

use super::cases::Expected;
use super::{Buffer, Clipping, NamedTensor, StorageType};

/// Compares the result of an adapter with that of plain slices.
pub(super) fn outcomes(
    given: &Result<Clipping, ClipError>,
    wanted: &Result<Clipping, ClipError>,
) -> Result<(), String> {
    match (given, wanted) {
        (Ok(given), Ok(wanted)) => {
            let [may_step, wanted_step] = [given, wanted].map(|clipping| clipping.may_step);
            same("whether the optimizer may step", may_step, wanted_step)?;
            reports(&given.report, &wanted.report)?;
            tensors(&given.tensors, &wanted.tensors)
        }
        (Err(given), Err(wanted)) => same("the error", by_name(given), by_name(wanted)),
        (Ok(_), Err(wanted)) => Err(format!("succeeded, but should fail: {wanted}")),
        (Err(given), Ok(_)) => Err(format!("failed, but should succeed: {given}")),
    }
}

/// Compares with values computed independently.
pub(super) fn known_values(given: &Clipping, expected: &Expected) -> Result<(), String> {
    let report = &given.report;
    same("the action", report.action, expected.action)?;
    let norms = (report.norm_before, report.norm_after);
    let known = (expected.norm_before, expected.norm_after);
    same("the norm before and after", norms, known)?;
    let given = indexed(&given.tensors)?;
    for (name, wanted) in &expected.tensors {
        let tensor = given
            .get(name)
            .ok_or_else(|| format!("there is no `{name}`"))?;
        elements(name, &tensor.gradient, wanted)?;
    }
    Ok(())
}

fn reports(given: &ClipReport, wanted: &ClipReport) -> Result<(), String> {
    macro_rules! same_fields {
        ($given:ident, $wanted:ident: $($what:literal $field:ident,)*) => {
            $( same($what, &$given.$field, &$wanted.$field)?; )*
        };
    }
    same_fields!(given, wanted:
        "the action" action,
        "the skip reason" skip_reason,
        "the norm before" norm_before,
        "the norm after" norm_after,
        "the coefficient" coefficient,
        "the threshold" threshold,
        "the number of non-finite elements" non_finite,
        "the first non-finite tensor" first_non_finite,
        "the clipped share" clipped_share,
        "the cosine" cosine,
    );
    // An adapter may defer scaling to the optimizer.
    if given.rounded_to_zero.is_some() {
        same(
            "the number of elements rounded to zero",
            given.rounded_to_zero,
            wanted.rounded_to_zero,
        )?;
    }
    let tensor_reports = |given: &TensorReport, wanted: &TensorReport| {
        same_fields!(given, wanted:
            "the name" name,
            "the norm before" norm_before,
            "the norm after" norm_after,
            "the coefficient" coefficient,
            "the threshold" threshold,
            "the square share" square_share,
            "the number of non-finite elements" non_finite,
            "the number of elements" elements,
        );
        Ok(())
    };
    for (given, wanted) in given.tensors.iter().zip(&wanted.tensors) {
        tensor_reports(given, wanted)
            .map_err(|problem: String| format!("`{}`: {problem}", given.name))?;
    }
    Ok(())
}

pub(super) fn tensors(given: &[NamedTensor], wanted: &[NamedTensor]) -> Result<(), String> {
    let (given, wanted) = (indexed(given)?, indexed(wanted)?);
    let names: BTreeSet<&str> = given.keys().chain(wanted.keys()).copied().collect();
    for name in names {
        let given = given
            .get(name)
            .ok_or_else(|| format!("the tensor `{name}` is lost"))?;
        let wanted = wanted
            .get(name)
            .ok_or_else(|| format!("`{name}` was not given"))?;
        same(
            &format!("the shape of `{name}`"),
            &given.shape,
            &wanted.shape,
        )?;
        elements(name, &given.gradient, &wanted.gradient)?;
    }
    Ok(())
}

fn indexed(tensors: &[NamedTensor]) -> Result<BTreeMap<&str, &NamedTensor>, String> {
    let mut index = BTreeMap::new();
    for tensor in tensors {
        if index.insert(tensor.name.as_str(), tensor).is_some() {
            return Err(format!("there are two tensors `{}`", tensor.name));
        }
    }
    Ok(index)
}

fn elements(name: &str, given: &Buffer, wanted: &Buffer) -> Result<(), String> {
    let types = [given, wanted].map(StorageType::of);
    same(&format!("the storage type of `{name}`"), types[0], types[1])?;
    let (given, wanted) = (bits(given), bits(wanted));
    same(
        &format!("the length of `{name}`"),
        given.len(),
        wanted.len(),
    )?;
    let pairs = given.iter().zip(&wanted);
    match pairs
        .enumerate()
        .find(|(_, (given, wanted))| given != wanted)
    {
        None => Ok(()),
        Some((index, (given, wanted))) => Err(format!(
            "element {index} of `{name}` has the bits {given:#x}, not {wanted:#x}"
        )),
    }
}

fn bits(buffer: &Buffer) -> Vec<u64> {
    macro_rules! widened {
        ($values:ident) => {
            $values.iter().map(|value| value.to_bits().into()).collect()
        };
    }
    match buffer {
        Buffer::F32(values) => widened!(values),
        Buffer::F64(values) => widened!(values),
        Buffer::F16(values) => widened!(values),
        Buffer::Bf16(values) => widened!(values),
        other => panic!("the suite lacks this storage type: {other:?}"),
    }
}

/// An error with its tensors sorted by name.
fn by_name(error: &ClipError) -> ClipError {
    let mut error = error.clone();
    if let ClipError::NonFinite { tensors } = &mut error {
        tensors.sort();
    }
    error
}

/// Compares debug output, in which floats are equal only if their bits are, and all NaN are equal.
fn same<T: Debug>(what: &str, given: T, wanted: T) -> Result<(), String> {
    let (given, wanted) = (format!("{given:?}"), format!("{wanted:?}"));
    match given == wanted {
        true => Ok(()),
        false => Err(format!("{what} is {given}, not {wanted}")),
    }
}
