//! The names of a Transformer's tensors: ours, and those in other formats.

use std::ops::Range;

use burn::tensor::Device;
use shears_model::{
    Architecture, BlockConfig, Initializer, Mlp, ModelConfig, Nonlinearity, ParameterInfo,
    Precision, Transformer, parameters,
};

/// The largest width, length or vocabulary that this program could compute with.
pub(crate) const SIZE_MAX: u64 = 1 << 24;
/// The most layers of a model: each has names before its tensors are looked up.
pub(crate) const LAYERS_MAX: u64 = 1000;

/// The kinds of block that other programs have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// GPT-2's (Radford et al. 2019), with either GELU.
    Gpt2,
    /// Llama's (Touvron et al. 2023), with and without biases.
    Llama,
}

/// The program that names follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// `transformers`, whose `Conv1D` stores the matrices of GPT-2's block as `[in, out]`.
    HuggingFace,
    /// llama.cpp, with matrices as ours.
    Gguf,
}

/// A model of this architecture and width, to be completed from a file.
pub(crate) fn model_config(architecture: Architecture, hidden: usize) -> ModelConfig {
    ModelConfig {
        architecture,
        layers: 1,
        hidden,
        embedding: hidden,
        heads: 1,
        block: BlockConfig::default(),
        context: 1,
        dropout: 0.0,
        tied: architecture == Architecture::Transformer,
        forget_bias: false,
        nonlinearity: Nonlinearity::Tanh,
        precision: Precision::F32,
    }
}

/// Rows of one of our tensors, and their counterpart in a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) name: String,
    /// Rows of our tensor; all of them, unless the format splits it into several tensors.
    pub(crate) rows: Range<usize>,
    /// Whether it is the transpose of ours, `[out, in]`.
    pub(crate) transposed: bool,
    /// The rows of a head, if the format interleaves its halves: ours are rotated with those half a
    /// head away, as in `transformers`, and llama.cpp's with adjacent ones.
    pub(crate) interleaved: Option<usize>,
}

/// A part of the model: our name, Hugging Face's, llama.cpp's; several where they split ours by
/// rows.
type Row = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const GPT_2: [Row; 10] = [
    ("token_embedding", &["transformer.wte"], &["token_embd"]),
    (
        "position_embedding",
        &["transformer.wpe"],
        &["position_embd"],
    ),
    ("norm_1", &["ln_1"], &["attn_norm"]),
    ("attention.qkv", &["attn.c_attn"], &["attn_qkv"]),
    ("attention.projection", &["attn.c_proj"], &["attn_output"]),
    ("norm_2", &["ln_2"], &["ffn_norm"]),
    ("mlp.expand", &["mlp.c_fc"], &["ffn_up"]),
    ("mlp.project", &["mlp.c_proj"], &["ffn_down"]),
    ("final_norm", &["transformer.ln_f"], &["output_norm"]),
    ("output", &["lm_head"], &["output"]),
];

const LLAMA: [Row; 9] = [
    ("token_embedding", &["model.embed_tokens"], &["token_embd"]),
    ("norm_1", &["input_layernorm"], &["attn_norm"]),
    (
        "attention.qkv",
        &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        &["attn_q", "attn_k", "attn_v"],
    ),
    (
        "attention.projection",
        &["self_attn.o_proj"],
        &["attn_output"],
    ),
    ("norm_2", &["post_attention_layernorm"], &["ffn_norm"]),
    (
        "mlp.expand",
        &["mlp.gate_proj", "mlp.up_proj"],
        &["ffn_gate", "ffn_up"],
    ),
    ("mlp.project", &["mlp.down_proj"], &["ffn_down"]),
    ("final_norm", &["model.norm"], &["output_norm"]),
    ("output", &["lm_head"], &["output"]),
];

impl Family {
    /// Its name in `transformers` and llama.cpp.
    pub(crate) fn model_type(self) -> &'static str {
        match self {
            Family::Gpt2 => "gpt2",
            Family::Llama => "llama",
        }
    }

    /// The family of a model, if it belongs to one.
    pub(crate) fn of(config: &ModelConfig) -> Option<Family> {
        if config.architecture != Architecture::Transformer {
            return None;
        }
        let block = config.block;
        let is_gelu = [Mlp::Gelu, Mlp::GeluTanh].contains(&block.mlp);
        // Both formats store sizes and epsilon as numbers.
        let BlockConfig {
            inner,
            norm_epsilon,
            ..
        } = block;
        let gpt_2 = BlockConfig {
            inner,
            norm_epsilon,
            mlp: block.mlp,
            ..BlockConfig::default()
        };
        let llama = BlockConfig {
            inner,
            norm_epsilon,
            rope_theta: block.rope_theta,
            bias: block.bias,
            ..BlockConfig::llama(block.kv_heads)
        };
        if is_gelu && block == gpt_2 {
            Some(Family::Gpt2)
        } else if block == llama {
            Some(Family::Llama)
        } else {
            None
        }
    }

    /// Its name in prose.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Family::Gpt2 => "GPT-2",
            Family::Llama => "Llama",
        }
    }

    /// The prefix of all Hugging Face names except the output layer's; a model that was saved
    /// without that layer has no prefix.
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Family::Gpt2 => "transformer.",
            Family::Llama => "model.",
        }
    }

    fn rows(self) -> &'static [Row] {
        match self {
            Family::Gpt2 => &GPT_2,
            Family::Llama => &LLAMA,
        }
    }
}

impl Naming {
    /// The counterpart of one of our tensors, with this shape; `None` if the family does not have
    /// it.
    pub(crate) fn pieces(
        self,
        family: Family,
        config: &ModelConfig,
        ours: &str,
        shape: &[usize],
    ) -> Option<Vec<Piece>> {
        let (part, kind) = ours.rsplit_once('.')?;
        let (block, part) = match part.strip_prefix("blocks.") {
            Some(rest) => rest
                .split_once('.')
                .map(|(index, part)| (Some(index), part))?,
            None => (None, part),
        };
        let row = family.rows().iter().find(|(ours, ..)| *ours == part)?;
        let names = match self {
            Naming::HuggingFace => row.1,
            Naming::Gguf => row.2,
        };
        let prefix = match (block, self, family) {
            (None, ..) => String::new(),
            (Some(block), Naming::Gguf, _) => format!("blk.{block}."),
            (Some(block), _, Family::Gpt2) => format!("transformer.h.{block}."),
            (Some(block), _, Family::Llama) => format!("model.layers.{block}."),
        };
        let keys = config.kv_heads() * (config.hidden / config.heads);
        let rows = match (part, names) {
            (_, [_]) => vec![shape[0]],
            ("attention.qkv", _) => vec![config.hidden, keys, keys],
            _ => vec![config.inner(); names.len()],
        };
        let is_matrix = block.is_some() && shape.len() == 2;
        let mut first = 0;
        let pieces = names.iter().zip(rows).enumerate();
        let pieces = pieces.map(|(index, (name, count))| {
            let rows = first..first + count;
            first += count;
            let is_rotated = part == "attention.qkv" && index < 2;
            Piece {
                name: format!("{prefix}{name}.{kind}"),
                rows,
                transposed: is_matrix && self == Naming::HuggingFace && family == Family::Gpt2,
                interleaved: (is_rotated && self == Naming::Gguf && family == Family::Llama)
                    .then_some(config.hidden / config.heads),
            }
        });
        Some(pieces.collect())
    }
}

/// Our tensors of a Transformer with this vocabulary, without allocating them.
pub(crate) fn tensors(config: &ModelConfig, vocabulary: usize) -> Vec<ParameterInfo> {
    let mut initializer = Initializer::new(0, &Device::default());
    parameters(&Transformer::new(vocabulary, config, &mut initializer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(block: BlockConfig) -> ModelConfig {
        ModelConfig {
            layers: 4,
            heads: 4,
            block,
            context: 8,
            ..model_config(Architecture::Transformer, 16)
        }
    }

    #[test]
    fn only_matrices_of_gpt_2s_blocks_are_transposed() {
        let config = config(BlockConfig::default());
        let piece = |naming: Naming, ours: &str, shape: &[usize]| {
            let pieces = naming.pieces(Family::Gpt2, &config, ours, shape)?;
            assert_eq!((pieces.len(), &pieces[0].rows), (1, &(0..shape[0])));
            Some((pieces[0].name.clone(), pieces[0].transposed))
        };
        let place = |ours: &str, shape: &[usize]| piece(Naming::HuggingFace, ours, shape).unwrap();
        let qkv = place("blocks.3.attention.qkv.weight", &[48, 16]);
        assert_eq!(qkv, ("transformer.h.3.attn.c_attn.weight".into(), true));
        assert!(!place("blocks.3.attention.qkv.bias", &[48]).1);
        assert!(!place("blocks.3.norm_2.weight", &[16]).1);
        assert!(!place("output.weight", &[40, 16]).1);
        assert_eq!(place("final_norm.bias", &[16]).0, "transformer.ln_f.bias");
        assert_eq!(
            piece(Naming::HuggingFace, "layers.0.weight_hh", &[16, 16]),
            None
        );
        let gguf = piece(Naming::Gguf, "blocks.3.mlp.project.weight", &[16, 64]);
        assert_eq!(gguf, Some(("blk.3.ffn_down.weight".into(), false)));
    }

    #[test]
    fn llamas_joined_rows_are_split() {
        let config = config(BlockConfig {
            inner: 20,
            ..BlockConfig::llama(2)
        });
        let pieces = |naming: Naming, ours: &str, shape: &[usize]| {
            let pieces = naming.pieces(Family::Llama, &config, ours, shape);
            let pieces = pieces.unwrap().into_iter();
            let pieces = pieces.map(|piece| (piece.name, piece.rows, piece.interleaved));
            pieces.collect::<Vec<_>>()
        };
        assert_eq!(
            pieces(
                Naming::HuggingFace,
                "blocks.1.attention.qkv.weight",
                &[32, 16]
            ),
            [
                ("model.layers.1.self_attn.q_proj.weight".into(), 0..16, None),
                (
                    "model.layers.1.self_attn.k_proj.weight".into(),
                    16..24,
                    None
                ),
                (
                    "model.layers.1.self_attn.v_proj.weight".into(),
                    24..32,
                    None
                ),
            ]
        );
        assert_eq!(
            pieces(Naming::Gguf, "blocks.0.attention.qkv.bias", &[32]),
            [
                ("blk.0.attn_q.bias".into(), 0..16, Some(4)),
                ("blk.0.attn_k.bias".into(), 16..24, Some(4)),
                ("blk.0.attn_v.bias".into(), 24..32, None),
            ]
        );
        assert_eq!(
            pieces(Naming::Gguf, "blocks.0.mlp.expand.weight", &[40, 16]),
            [
                ("blk.0.ffn_gate.weight".into(), 0..20, None),
                ("blk.0.ffn_up.weight".into(), 20..40, None),
            ]
        );
    }

    #[test]
    fn a_block_between_the_two_belongs_to_neither() {
        let family = |block| Family::of(&config(block));
        let tanh = BlockConfig {
            mlp: Mlp::GeluTanh,
            inner: 20,
            norm_epsilon: 1e-6,
            ..BlockConfig::default()
        };
        assert_eq!(family(tanh), Some(Family::Gpt2));
        let llama = BlockConfig {
            rope_theta: 5e5,
            bias: true,
            ..BlockConfig::llama(2)
        };
        assert_eq!(family(llama), Some(Family::Llama));
        let mlp = Mlp::Gelu;
        assert_eq!(family(BlockConfig { mlp, ..llama }), None);
        let (bias, kv_heads) = (false, 2);
        assert_eq!(family(BlockConfig { bias, ..tanh }), None);
        assert_eq!(family(BlockConfig { kv_heads, ..tanh }), None);
        let lstm = Architecture::Lstm;
        let recurrent = ModelConfig {
            architecture: lstm,
            ..config(tanh)
        };
        assert_eq!(Family::of(&recurrent), None);
    }
}
