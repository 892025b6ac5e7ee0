//! What `shears clip` refuses: one line that names the problem, and no output.

use crate::clip::{f32s, file_of, raw, tensors_in, with_files};
use crate::program::{Scratch, rows};

#[test]
fn policies_that_files_cannot_have_are_refused() {
    let scratch = with_files(&[("s.st", &[f32s("a", &[1.0])])]);
    for [flags, parts] in rows(
        "--clip global-norm:0           | global-norm:0 & greater than 0
         --clip global-nrom:1           | did you mean `global-norm`?
         --clip spam                    | `spam` & inside Adam
         --clip value:1+update-rms:1    | `update-rms` & inside Adam
         --clip none --non-finite ignore| ignore & skip
         --clip value:1 --params s.st   | --params is about `agc`, which is not in value:1
         --clip none --output-layer a   | --output-layer is about `agc`
                                        | --clip",
    ) {
        scratch.refuses(2, &format!("clip s.st --out out {flags}"), parts);
    }
    scratch.refuses(2, "clip --clip none", "STEP");
}

#[test]
fn inputs_are_never_overwritten() {
    let tensors = [f32s("a", &[3.0])];
    let names = ["s.st", "sub/s.st", "sub/t.st", "p.st"];
    let scratch = with_files(&names.map(|name| (name, tensors.as_slice())));
    let over = "would be overwritten";
    for [flags, parts] in rows(
        "s.st --out .               | s.st & would be overwritten
         s.st --out sub/..          | s.st & would be overwritten
         s.st sub/s.st --out out    | s.st and sub/s.st
         s.st s.st --out out        | s.st and s.st
         s.st --out p.st            | p.st is not a folder
         s.st sub --out out         | sub is not a file
         s.st no.st                     | no.st does not exist",
    ) {
        scratch.refuses(2, &format!("clip {flags} --clip value:1"), parts);
    }
    let clip = "clip s.st sub/t.st --out sub --clip agc:0.01 --params sub/s.st";
    scratch.refuses(2, clip, "sub/s.st & would be overwritten");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(scratch.path("s.st"), scratch.path("sub/link.st")).unwrap();
        scratch.write("link.st", file_of(&tensors));
        let clip = "clip sub/link.st --out . --clip agc:0.01 --params link.st";
        scratch.refuses(2, clip, over);
    }
    let folder = "new/..";
    let ran = scratch.run(&format!("clip s.st --clip value:1 --out {folder}"));
    assert!(ran.failed(2).contains(over));
    for [flags, parts] in rows(
        "--state s.st               | --state s.st is another file of this call
         --state sub/s.st --out sub | --state sub/s.st is another file of this call
         --state no/history.json    | --state no/history.json: there is no folder no",
    ) {
        scratch.refuses(2, &format!("clip s.st --clip autoclip:10 {flags}"), parts);
    }
    for name in names {
        assert_eq!(tensors_in(&scratch, name), tensors, "{name}");
    }
    // The same file twice counts as two steps, and existing output is replaced.
    let lines = scratch.run("clip s.st s.st --clip value:1 --json").json();
    assert_eq!(lines[1]["step"], 1);
    scratch.write("out/s.st", "old");
    scratch
        .run("clip s.st --clip value:1 --out out")
        .succeeded();
    assert_eq!(tensors_in(&scratch, "out/s.st"), [f32s("a", &[1.0])]);
}

#[test]
fn files_that_are_not_gradients_are_refused() {
    let scratch = Scratch::new();
    let whole = file_of(&[f32s("a", &[1.0, 2.0]), f32s("b", &[3.0])]);
    let entry = |dtype: &str, shape: &str, to: usize| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{to}]}}"#)
    };
    let one = entry("F32", "[1]", 4);
    let huge = entry("F32", "[4294967296,4294967296]", 4);
    let two = format!(r#"{{"a":{one},"\u0061":{one}}}"#);
    let cases: [(Vec<u8>, &str); 14] = [
        (b"".to_vec(), "shorter than the length of a header"),
        (b"{}".to_vec(), "shorter than the length of a header"),
        (
            b"not a safetensors file".to_vec(),
            "its header is larger than any may be",
        ),
        (whole[..20].to_vec(), "cut off within its header"),
        (
            whole[..whole.len() - 1].to_vec(),
            "cut off, or longer than its header says",
        ),
        (
            [&whole[..], b"x"].concat(),
            "cut off, or longer than its header says",
        ),
        (raw("{\"a\":", b""), "its header is cut off"),
        (raw("[]", b""), "its header "),
        (raw(&two, &[0; 4]), "its header has two tensors `a`"),
        (
            raw(&format!(r#"{{"a":{}}}"#, entry("F32", "[2]", 4)), &[0; 4]),
            "not a whole safetensors file",
        ),
        (
            raw(&format!(r#"{{"a":{huge}}}"#), &[0; 4]),
            "not a whole safetensors file",
        ),
        (
            raw(&format!(r#"{{"a":{one},"b":{one}}}"#), &[0; 4]),
            "overlaps another tensor",
        ),
        (
            raw(&format!(r#"{{"n":{}}}"#, entry("I32", "[1]", 4)), &[0; 4]),
            "`n` has type I32",
        ),
        (
            raw(
                &format!(r#"{{"q":{}}}"#, entry("F8_E4M3", "[4]", 4)),
                &[0; 4],
            ),
            "F8_E4M3",
        ),
    ];
    for (bytes, problem) in cases {
        scratch.write("bad.st", bytes);
        let parts = format!("bad.st: & {problem}");
        scratch.refuses(1, "clip bad.st --clip global-norm:1", &parts);
    }
}
