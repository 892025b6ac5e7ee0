//! The names of a Transformer's tensors: ours, and those of each format that has GPT-2's shape.

/// Whose names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// `transformers`, whose `Conv1D` holds the matrices of a block as `[in, out]`.
    HuggingFace,
}

/// Where a tensor of ours is in a format.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: String,
    /// Whether it is the transpose of ours, `[out, in]`.
    pub(crate) transposed: bool,
}

/// The parts of a block: ours, Hugging Face's, and whether it is a matrix of `Conv1D`.
const PARTS: [(&str, &str, bool); 6] = [
    ("norm_1", "ln_1", false),
    ("attention.qkv", "attn.c_attn", true),
    ("attention.projection", "attn.c_proj", true),
    ("norm_2", "ln_2", false),
    ("mlp.expand", "mlp.c_fc", true),
    ("mlp.project", "mlp.c_proj", true),
];

impl Naming {
    /// The place of one of our tensors; none of a tensor that GPT-2's shape does not have.
    pub(crate) fn place(self, ours: &str) -> Option<Place> {
        let Naming::HuggingFace = self;
        let (name, transposed) = match ours {
            "token_embedding.weight" => ("transformer.wte.weight".to_string(), false),
            "position_embedding.weight" => ("transformer.wpe.weight".to_string(), false),
            "final_norm.weight" => ("transformer.ln_f.weight".to_string(), false),
            "final_norm.bias" => ("transformer.ln_f.bias".to_string(), false),
            "output.weight" => ("lm_head.weight".to_string(), false),
            _ => {
                let (index, part) = ours.strip_prefix("blocks.")?.split_once('.')?;
                let (part, kind) = part.rsplit_once('.')?;
                let (_, theirs, is_matrix) = PARTS.iter().find(|(name, ..)| *name == part)?;
                let name = format!("transformer.h.{index}.{theirs}.{kind}");
                (name, *is_matrix && kind == "weight")
            }
        };
        Some(Place { name, transposed })
    }
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
    }
}
