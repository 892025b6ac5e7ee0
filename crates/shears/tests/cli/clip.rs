//! `shears clip`: output files and reports.

use std::collections::HashMap;
use std::fs;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::program::{Scratch, has};

/// Name, type, shape and bytes of a tensor.
pub(crate) type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);

pub(crate) fn tensor(name: &str, dtype: Dtype, shape: &[usize], values: &[f64]) -> Tensor {
    let bytes = values.iter().flat_map(|value| bytes_of(dtype, *value));
    (name.into(), dtype, shape.to_vec(), bytes.collect())
}

pub(crate) fn f32s(name: &str, values: &[f64]) -> Tensor {
    tensor(name, Dtype::F32, &[values.len()], values)
}

fn bytes_of(dtype: Dtype, number: f64) -> Vec<u8> {
    match dtype {
        Dtype::F64 => number.to_le_bytes().to_vec(),
        Dtype::F32 => (number as f32).to_le_bytes().to_vec(),
        Dtype::F16 => half::f16::from_f64(number).to_le_bytes().to_vec(),
        Dtype::BF16 => half::bf16::from_f64(number).to_le_bytes().to_vec(),
        _ => vec![number as u8; dtype.bitsize() / 8],
    }
}

fn numbers_of(tensor: &Tensor) -> Vec<f64> {
    let (_, dtype, _, bytes) = tensor;
    let elements = bytes.chunks(dtype.bitsize() / 8);
    elements
        .map(|bytes| match dtype {
            Dtype::F64 => f64::from_le_bytes(bytes.try_into().unwrap()),
            Dtype::F32 => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
            Dtype::F16 => half::f16::from_le_bytes(bytes.try_into().unwrap()).into(),
            _ => half::bf16::from_le_bytes(bytes.try_into().unwrap()).into(),
        })
        .collect()
}

pub(crate) fn file_of(tensors: &[Tensor]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize(views, Some(metadata)).unwrap()
}

pub(crate) fn with_files(files: &[(&str, &[Tensor])]) -> Scratch {
    let scratch = Scratch::new();
    for (name, tensors) in files {
        scratch.write(name, file_of(tensors));
    }
    scratch
}

/// A file with this header.
pub(crate) fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_bytes(), data].concat()
}

/// The tensors of a file, by name.
pub(crate) fn tensors_in(scratch: &Scratch, name: &str) -> Vec<Tensor> {
    let bytes = fs::read(scratch.path(name)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<Tensor> = file
        .iter()
        .map(|(name, view)| {
            let (shape, data) = (view.shape().to_vec(), view.data().to_vec());
            (name.into(), view.dtype(), shape, data)
        })
        .collect();
    tensors.sort_by(|left, right| left.0.cmp(&right.0));
    tensors
}

fn same_bytes(scratch: &Scratch, left: &str, right: &str) -> bool {
    fs::read(scratch.path(left)).unwrap() == fs::read(scratch.path(right)).unwrap()
}

#[test]
fn every_type_is_clipped_in_its_own() {
    for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16] {
        let tensors = [
            tensor("b", dtype, &[2, 1], &[3.0, 0.0]),
            tensor("a", dtype, &[], &[4.0]),
        ];
        let scratch = with_files(&[("s.safetensors", &tensors)]);
        let clip = "clip s.safetensors --json --out new/out --clip";
        let lines = scratch.run(&format!("{clip} global-norm:1")).json();
        assert_eq!(lines[0]["norm_before"], 5.0);
        let written = tensors_in(&scratch, "new/out/s.safetensors");
        assert_eq!(written[0], tensor("a", dtype, &[], &[0.8]));
        assert_eq!(written[1], tensor("b", dtype, &[2, 1], &[3.0 * 0.2, 0.0]));
        assert_eq!(numbers_of(&written[1])[1], 0.0);

        // At the threshold, and without a policy, every bit stays.
        for policy in ["global-norm:5", "none", "global-norm:inf"] {
            let lines = scratch.run(&format!("{clip} {policy}")).json();
            assert_eq!(lines[0]["action"], "keep", "{policy}");
            assert!(same_bytes(
                &scratch,
                "s.safetensors",
                "new/out/s.safetensors"
            ));
        }
        let left: Vec<_> = fs::read_dir(scratch.path("new/out")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}

#[test]
fn lines_of_json() {
    let tensors = [f32s("w.b", &[0.0, 4.0]), f32s("w.a", &[3.0])];
    let scratch = with_files(&[("s.safetensors", &tensors)]);
    let text = scratch.run("clip s.safetensors --clip global-norm:2.5 --json");
    let expected = concat!(
        r#"{"step":0,"action":"clip","norm_before":5.0,"norm_after":2.5,"coefficient":0.5,"#,
        r#""threshold":2.5,"non_finite":0,"rounded_to_zero":0,"tensors":["#,
        r#"{"name":"w.a","norm_before":3.0,"norm_after":1.5,"coefficient":0.5,"non_finite":0},"#,
        r#"{"name":"w.b","norm_before":4.0,"norm_after":2.0,"coefficient":0.5,"non_finite":0}]}"#,
        "\n"
    );
    assert_eq!(text.succeeded(), expected);
    let line = |flags: &str| {
        let ran = scratch.run(&format!("clip s.safetensors --json {flags}"));
        ran.json().remove(0)
    };
    assert_eq!(line("--clip none")["threshold"], Value::Null);
    assert_eq!(line("--clip global-norm:inf")["threshold"], Value::Null);
    let tiny = line("--clip global-norm:1e-25");
    assert_eq!(tiny["threshold"].as_f64(), Some(1e-25));
    assert_eq!(tiny["norm_after"].as_f64(), Some(1e-25));
    assert_eq!(tiny["coefficient"].as_f64(), Some(1e-25 / 5.0));
    let one = line("--clip global-norm:1,p=1");
    assert_eq!([&one["norm_before"], &one["norm_after"]], [7.0, 1.0]);
    assert_eq!(line("--clip norm:9,p=inf")["norm_before"], 4.0);
    let chain = line("--clip value:3+global-norm:1");
    assert_eq!([&chain["norm_before"], &chain["norm_after"]], [5.0, 1.0]);
    assert_eq!(chain["coefficient"].as_f64(), Some(0.2));
    assert_eq!(scratch.listing().len(), 1);
}

#[test]
fn underflowed_elements_are_reported() {
    let tensors = [tensor("w", Dtype::F16, &[3], &[2.0, 6e-8, 0.0])];
    let scratch = with_files(&[("s.safetensors", &tensors)]);
    let ran = scratch.run("clip s.safetensors --clip global-norm:0.5 --json");
    assert_eq!(ran.json()[0]["rounded_to_zero"], 1);
    let text = |threshold: &str| {
        let ran = scratch.run(&format!(
            "clip s.safetensors --clip global-norm:{threshold}"
        ));
        ran.succeeded()
    };
    assert!(text("0.5").contains("1 element too small for its type became zero"));
    assert!(!text("2").contains("became zero"));
}

#[test]
fn nothing_to_clip() {
    let tensors = [
        tensor("empty", Dtype::F32, &[0, 3], &[]),
        tensor("scalar", Dtype::BF16, &[], &[0.0]),
        f32s("zero", &[0.0, -0.0]),
    ];
    let scratch = with_files(&[("zero.safetensors", &tensors), ("none.safetensors", &[])]);
    scratch.write("bare.safetensors", raw("{}", b""));
    let files = ["zero.safetensors", "none.safetensors", "bare.safetensors"];
    for policy in [
        "global-norm:1",
        "norm:1",
        "value:1",
        "normalize:1",
        "block-rms:1",
        "zclip",
    ] {
        let all = files.join(" ");
        let lines = scratch.run(&format!("clip {all} --clip {policy} --out out --json"));
        for line in lines.json() {
            assert_eq!(line["action"], "keep", "{policy}: {line}");
            assert_eq!([&line["norm_before"], &line["coefficient"]], [0.0, 1.0]);
        }
        for file in files {
            assert!(
                same_bytes(&scratch, file, &format!("out/{file}")),
                "{policy}"
            );
        }
    }
}

#[test]
fn non_finite_gradients() {
    let good = [f32s("a", &[3.0]), f32s("b", &[4.0, 0.0])];
    let bad = [f32s("a", &[3.0]), f32s("b", &[4.0, f64::NAN])];
    let files: [(&str, &[Tensor]); 3] = [("0.st", &good), ("1.st", &bad), ("2.st", &good)];
    let policies = [
        "none",
        "value:1",
        "norm:1",
        "global-norm:1",
        "group-norm:1",
        "block-rms:1",
        "normalize:1",
        "autoclip:10",
        "zclip",
        "adagc",
        "median:2,window=4",
        "skip:6",
        "value:1+global-norm:1",
        "agc:0.01",
    ];
    for policy in policies {
        let scratch = with_files(&files);
        let params = if policy.starts_with("agc") {
            "--params 0.st"
        } else {
            ""
        };
        let flags = format!("--clip {policy} {params} --out out --json");
        let ran = scratch.run(&format!("clip 0.st 1.st 2.st {flags}"));
        assert_eq!(ran.stdout.lines().count(), 1, "{policy}: {ran:#?}");
        let message = ran.failed(1);
        assert!(
            message.contains("1.st") && message.contains("`b`"),
            "{message}"
        );
        assert!(!message.contains("`a`"), "{message}");
        let out: Vec<_> = fs::read_dir(scratch.path("out")).unwrap().collect();
        assert_eq!(out.len(), 1, "{policy}: {out:?}");
        assert!(scratch.path("out/0.st").exists());
    }
    let scratch = with_files(&files);
    let flags = "--clip global-norm:1 --out out --json --non-finite";
    let lines = scratch
        .run(&format!("clip 0.st 1.st 2.st {flags} skip"))
        .json();
    let of = |key: &str| {
        lines
            .iter()
            .map(|line| line[key].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("step"), [0, 1, 2]);
    assert_eq!(of("action"), ["clip", "skip", "clip"]);
    assert_eq!(of("norm_before"), [json!(5.0), Value::Null, json!(5.0)]);
    assert_eq!(of("coefficient"), [0.2, 0.0, 0.2]);
    assert_eq!(of("non_finite"), [0, 1, 0]);
    assert!(!scratch.path("out/1.st").exists() && scratch.path("out/2.st").exists());
    let line = scratch
        .run(&format!("clip 1.st {flags} zero"))
        .json()
        .remove(0);
    assert_eq!(
        [&line["action"], &line["norm_before"]],
        [&json!("clip"), &json!(5.0)]
    );
    assert_eq!(tensors_in(&scratch, "out/1.st")[1], f32s("b", &[0.8, 0.0]));
}

#[test]
fn a_policy_that_learns_sees_one_run() {
    let norms = [1.0, 1.2, 0.9, 1.1, 1.0, 40.0, 1.05, 0.95];
    let scratch = Scratch::new();
    let mut files = Vec::new();
    for (step, norm) in norms.iter().enumerate() {
        let file = format!("{step}.st");
        scratch.write(
            &file,
            file_of(&[f32s("a", &[*norm]), f32s("b", &[norm / 2.0])]),
        );
        files.push(file);
    }
    scratch.write(
        "nan.st",
        file_of(&[f32s("a", &[f64::NAN]), f32s("b", &[1.0])]),
    );
    let mut with_nan = files.clone();
    with_nan.insert(4, "nan.st".into());
    for policy in [
        "zclip:z=2.5,warmup=3",
        "autoclip:50",
        "median:2,window=4",
        "adagc",
        "global-norm:2..0.5@4",
    ] {
        let run = |files: &[String], out: &str| {
            let (files, flags) = (files.join(" "), "--non-finite skip --json");
            let clip = format!("clip {files} --clip {policy} {flags} --out {out}");
            scratch.run(&clip).json()
        };
        let alone = run(&files, "alone");
        assert!(
            alone.iter().any(|line| line["action"] == "clip"),
            "{policy}"
        );
        let mut together = run(&with_nan, "together");
        let skipped = together.remove(4);
        assert_eq!(
            [&skipped["step"], &skipped["action"]],
            [&json!(4), &json!("skip")]
        );
        assert_eq!(together[4]["step"], 5);
        for (left, right) in together.iter().zip(&alone) {
            assert_eq!(left["norm_after"], right["norm_after"], "{policy}");
            assert_eq!(left["threshold"], right["threshold"], "{policy}");
        }
        for file in &files {
            let (left, right) = (format!("alone/{file}"), format!("together/{file}"));
            assert!(same_bytes(&scratch, &left, &right), "{policy}: {file}");
        }
        assert!(!scratch.path("together/nan.st").exists());
    }
    let all = files.join(" ");
    let lines = scratch.run(&format!(
        "clip {all} --clip skip:2,window=4 --json --out skip"
    ));
    let spike = lines.json().remove(5);
    assert_eq!(
        [&spike["action"], &spike["coefficient"]],
        [&json!("skip"), &json!(0.0)]
    );
    assert!(spike["norm_before"].as_f64().unwrap() > 40.0);
    assert!(!scratch.path("skip/5.st").exists() && scratch.path("skip/6.st").exists());
}

#[test]
fn agc_compares_with_parameters() {
    let gradient = [tensor("w", Dtype::F32, &[2, 2], &[3.0, 4.0, 0.3, 0.4])];
    let counter = tensor("steps", Dtype::I64, &[], &[7.0]);
    let parameters = [
        tensor("w", Dtype::BF16, &[2, 2], &[0.0, 1.0, 1.0, 0.0]),
        counter,
    ];
    let turned = [tensor("w", Dtype::F32, &[4, 1], &[1.0; 4])];
    let other = [f32s("v", &[1.0])];
    let scratch = with_files(&[
        ("s.st", &gradient),
        ("p.st", &parameters),
        ("turned.st", &turned),
        ("other.st", &other),
    ]);
    let agc = "clip s.st --clip agc:0.5,unit=first --out out";
    scratch.run(&format!("{agc} --params p.st")).succeeded();
    let expected = tensor("w", Dtype::F32, &[2, 2], &[0.3, 0.4, 0.3, 0.4]);
    assert_eq!(tensors_in(&scratch, "out/s.st"), [expected]);
    fs::remove_dir_all(scratch.path("out")).unwrap();
    scratch.refuses(2, agc, "agc & --params");
    scratch.refuses(2, &format!("{agc} --params no.st"), "no.st does not exist");
    for (params, parts) in [
        ("turned.st", "`w` & [2, 2] & [4, 1]"),
        ("other.st", "`w` & s.st & other.st"),
    ] {
        let ran = scratch.run(&format!("{agc} --params {params}"));
        has(&ran.failed(1), parts);
        assert!(!scratch.path("out/s.st").exists());
    }
}

#[test]
fn the_header_is_kept() {
    let scratch = Scratch::new();
    // Two metadata keys in unusual order, unaligned data, trailing padding.
    let header = concat!(
        r#"{"__metadata__":{"z":"1","a":"ß"},"w":{"dtype":"BF16","shape":[1],"#,
        r#""data_offsets":[0,2]},"b":{"dtype":"F64","shape":[1],"data_offsets":[2,10]},"#,
        r#""e":{"dtype":"F32","shape":[0],"data_offsets":[2,2]}}   "#
    );
    let bytes = |scale: f64| {
        let numbers = [
            bytes_of(Dtype::BF16, 3.0 * scale),
            bytes_of(Dtype::F64, 4.0 * scale),
        ];
        raw(header, &numbers.concat())
    };
    scratch.write("s.st", bytes(1.0));
    scratch
        .run("clip s.st --clip global-norm:2.5 --out out")
        .succeeded();
    assert_eq!(fs::read(scratch.path("out/s.st")).unwrap(), bytes(0.5));
}

#[test]
fn a_report_to_read() {
    let many: Vec<Tensor> = (0..11)
        .map(|i| f32s(&format!("t{i:02}"), &[f64::from(i)]))
        .collect();
    let files: [(&str, &[Tensor]); 3] = [
        ("many.st", &many),
        ("small.st", &[f32s("t00", &[0.5])]),
        (
            "nan.st",
            &[f32s("t00", &[0.5]), f32s("t01", &[f64::INFINITY])],
        ),
    ];
    let scratch = with_files(&files);
    let flags = "--clip global-norm:1 --non-finite skip";
    let text = scratch
        .run(&format!("clip many.st small.st nan.st {flags}"))
        .succeeded();
    has(
        &text,
        "clipping by global-norm:1, non-finite gradients: skip & step 0  many.st   clip  norm \
         19.6 -> 1 (x 0.051), threshold 1 & \n  t10  26.0 %  norm 10  -> 0.51 & ... and 2 more & \
         step 1  small.st  keep  norm 0.5, threshold 1\nstep 2 & step 2  nan.st    skip  1 \
         non-finite value\n  t01  1 of 1 values non-finite\n & 3 steps: 1 kept, 1 clipped, 1 \
         skipped; no gradients were written & 1 of 3 steps clipped",
    );
    let text = scratch
        .run(&format!("clip many.st {flags} --out out"))
        .succeeded();
    has(&text, "1 file written to out");
    assert!(!text.contains("engaged"), "{text}");
}

#[test]
fn empty_tensors_with_several_axes_have_no_units() {
    let empty = [tensor("e", Dtype::F32, &[0, 5, 5], &[])];
    let scratch = with_files(&[("g.st", &empty), ("p.st", &empty)]);
    for unit in ["first", "last"] {
        let arguments = format!("clip g.st --params p.st --clip agc:0.01,unit={unit} --json");
        assert_eq!(scratch.run(&arguments).json()[0]["action"], "keep");
    }
}

#[test]
fn a_skipped_step_leaves_no_file_of_an_earlier_call() {
    let scratch = with_files(&[("g.st", &[f32s("a", &[f64::NAN, 3.0])])]);
    let clip = |rule: &str| {
        let arguments = format!("clip g.st --clip global-norm:1 --non-finite {rule} --out out");
        scratch.run(&arguments).succeeded();
        scratch.path("out/g.st").exists()
    };
    assert!(clip("zero"));
    assert!(!clip("skip"));
}

#[test]
fn parameters_that_are_not_finite_are_refused() {
    let scratch = with_files(&[
        ("g.st", &[f32s("a", &[1.0, 3.0])]),
        ("p.st", &[f32s("a", &[f64::NAN, 3.0])]),
    ]);
    let problem = "parameter `a` has values that are not finite";
    scratch.refuses(1, "clip g.st --params p.st --clip agc:0.01", problem);
}
