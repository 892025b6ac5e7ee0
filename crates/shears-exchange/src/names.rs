//! The names of a Transformer's tensors: ours, and those of each format that has GPT-2's shape.

use shears_model::ModelConfig;

/// Whose names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// `transformers`, whose `Conv1D` holds the matrices of a block as `[in, out]`.
    HuggingFace,
    /// llama.cpp, with matrices as ours.
    Gguf,
}

/// Where a tensor of ours is in a format.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: String,
    /// Whether it is the transpose of ours, `[out, in]`.
    pub(crate) transposed: bool,
}

/// A tensor, or a part of a block: ours, Hugging Face's, llama.cpp's.
type Row = (&'static str, &'static str, &'static str);

const TOP: [Row; 4] = [
    ("token_embedding", "transformer.wte", "token_embd"),
    ("position_embedding", "transformer.wpe", "position_embd"),
    ("final_norm", "transformer.ln_f", "output_norm"),
    ("output", "lm_head", "output"),
];

const NORMS: [Row; 2] = [
    ("norm_1", "ln_1", "attn_norm"),
    ("norm_2", "ln_2", "ffn_norm"),
];

const MATRICES: [Row; 4] = [
    ("attention.qkv", "attn.c_attn", "attn_qkv"),
    ("attention.projection", "attn.c_proj", "attn_output"),
    ("mlp.expand", "mlp.c_fc", "ffn_up"),
    ("mlp.project", "mlp.c_proj", "ffn_down"),
];

impl Naming {
    /// The place of one of our tensors; none of a tensor that GPT-2's shape does not have.
    pub(crate) fn place(self, ours: &str) -> Option<Place> {
        let (part, kind) = ours.rsplit_once('.')?;
        let find = |rows: &[Row], part: &str| {
            let row = rows.iter().find(|(ours, ..)| *ours == part)?;
            Some(match self {
                Naming::HuggingFace => row.1,
                Naming::Gguf => row.2,
            })
        };
        if let Some(theirs) = find(&TOP, part) {
            let name = format!("{theirs}.{kind}");
            return Some(Place {
                name,
                transposed: false,
            });
        }
        let (index, part) = part.strip_prefix("blocks.")?.split_once('.')?;
        let matrix = find(&MATRICES, part);
        let theirs = matrix.or_else(|| find(&NORMS, part))?;
        let is_weight = matrix.is_some() && kind == "weight";
        Some(match self {
            Naming::HuggingFace => Place {
                name: format!("transformer.h.{index}.{theirs}.{kind}"),
                transposed: is_weight,
            },
            Naming::Gguf => Place {
                name: format!("blk.{index}.{theirs}.{kind}"),
                transposed: false,
            },
        })
    }
}

/// Names and shapes of our tensors in a model of GPT-2's shape.
pub(crate) fn gpt_2_shapes(config: &ModelConfig, vocabulary: usize) -> Vec<(String, Vec<usize>)> {
    let hidden = config.hidden;
    let mut shapes = vec![
        (
            "token_embedding.weight".to_string(),
            vec![vocabulary, hidden],
        ),
        (
            "position_embedding.weight".to_string(),
            vec![config.context, hidden],
        ),
    ];
    for index in 0..config.layers {
        let mut push = |part: &str, rows: usize, columns: Option<usize>| {
            let weight = std::iter::once(rows).chain(columns).collect();
            shapes.push((format!("blocks.{index}.{part}.weight"), weight));
            shapes.push((format!("blocks.{index}.{part}.bias"), vec![rows]));
        };
        push("norm_1", hidden, None);
        push("attention.qkv", 3 * hidden, Some(hidden));
        push("attention.projection", hidden, Some(hidden));
        push("norm_2", hidden, None);
        push("mlp.expand", 4 * hidden, Some(hidden));
        push("mlp.project", hidden, Some(4 * hidden));
    }
    for kind in ["weight", "bias"] {
        shapes.push((format!("final_norm.{kind}"), vec![hidden]));
    }
    if !config.tied {
        shapes.push(("output.weight".to_string(), vec![vocabulary, hidden]));
    }
    shapes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_of_a_block_alone_are_transposed() {
        let place = |ours| Naming::HuggingFace.place(ours).unwrap();
        let qkv = place("blocks.3.attention.qkv.weight");
        assert_eq!(qkv.name, "transformer.h.3.attn.c_attn.weight");
        assert!(qkv.transposed);
        assert!(!place("blocks.3.attention.qkv.bias").transposed);
        assert!(!place("blocks.3.norm_2.weight").transposed);
        assert!(!place("output.weight").transposed);
        assert_eq!(Naming::HuggingFace.place("layers.0.weight_hh"), None);
        assert_eq!(place("final_norm.bias").name, "transformer.ln_f.bias");
        let gguf = Naming::Gguf.place("blocks.3.mlp.project.weight").unwrap();
        assert_eq!(
            (gguf.name.as_str(), gguf.transposed),
            ("blk.3.ffn_down.weight", false)
        );
    }
}
