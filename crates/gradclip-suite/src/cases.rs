//! The cases: every policy over a training run and over hard inputs, and values computed
//! independently.

use gradclip::{ClipAction, ClipPolicy, ClipRule, NonFinite, NormOrder, Threshold};

use super::{Buffer, NamedTensor, StorageType, rounded};

/// One policy over the gradients of some steps.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) policy: ClipPolicy,
    pub(super) non_finite: NonFinite,
    pub(super) steps: Vec<Vec<NamedTensor>>,
    /// Independently computed results of each step.
    pub(super) expected: Option<Expected>,
}

impl Case {
    pub(super) fn shapes(&self) -> impl Iterator<Item = &[usize]> {
        self.steps
            .iter()
            .flatten()
            .map(|tensor| tensor.shape.as_slice())
    }
}

/// Independently computed results.
pub(super) struct Expected {
    pub(super) action: ClipAction,
    pub(super) norm_before: f64,
    pub(super) norm_after: f64,
    pub(super) tensors: Vec<(&'static str, Buffer)>,
}

/// Every rule in every form, with thresholds that the model below exceeds at some or all steps.
pub(super) const POLICIES: [&str; 36] = [
    "none",
    "value:0.5",
    "value:inf",
    "norm:1",
    "norm:2,p=1",
    "norm:1.5,p=3",
    "norm:0.5,p=inf",
    "global-norm:3",
    "global-norm:30,p=0.5",
    "global-norm:20,p=1",
    "global-norm:2,p=3",
    "global-norm:0.9,p=inf",
    "global-norm:5..0.1@6",
    "group-norm:2",
    "block-rms:0.5",
    "normalize:2",
    "normalize:100",
    "agc:0.1",
    "agc:0.1,unit=first",
    "agc:0.2..0.05@4,eps=0.5,unit=last",
    "autoclip:10",
    "autoclip:60",
    "zclip",
    "zclip:z=2,alpha=0.9,warmup=4,max=9",
    "adagc",
    "adagc:abs=4,rel=1.1,beta=0.9,warmup=4",
    "median:1.2",
    "median:1,window=5",
    "skip:3,window=6,limit=2",
    "skip:2,window=4,limit=1+autoclip:60",
    "value:0.5+global-norm:1",
    "norm:1+global-norm:1+value:0.1",
    "group-norm:2+block-rms:0.4",
    "agc:0.1,unit=first+global-norm:0.5",
    "update-rms:1",
    "spam+global-norm:1",
];

/// The factor on the gradients of each step of a training run: with spikes and one zero.
const SIZES: [f64; 14] = [
    1.0, 1.2, 0.9, 1.1, 1.0, 0.8, 30.0, 1.0, 1.3, 0.0, 1.1, 200.0, 150.0, 0.5,
];

/// All cases of one storage type.
pub(super) fn all(storage: StorageType) -> Vec<Case> {
    let make = Make { storage };
    let mut cases = vec![
        make.six_and_eight("below the threshold", 10.5, 1.0),
        make.six_and_eight("at the threshold", 10.0, 1.0),
        make.six_and_eight("above the threshold", 5.0, 0.5),
        make.squares_that_overflow(),
        make.no_tensors(),
    ];
    cases.extend(make.rounding_once());
    for text in POLICIES {
        let policy: ClipPolicy = text.parse().expect("the policies of the suite are valid");
        cases.push(make.training(&policy));
        for (name, tensors) in make.hard_inputs() {
            cases.push(Case {
                name,
                policy: policy.clone(),
                non_finite: NonFinite::Error,
                steps: vec![make.with_parameters(tensors, &policy); 3],
                expected: None,
            });
        }
        for non_finite in [NonFinite::Error, NonFinite::Skip, NonFinite::Zero] {
            cases.push(make.not_finite(&policy, non_finite));
        }
    }
    for text in ["global-norm:3", "value:0.5", "norm:1,p=3", "agc:0.01"] {
        let policy: ClipPolicy = text.parse().expect("the policies of the suite are valid");
        cases.push(make.large_tensor(&policy));
    }
    cases
}

/// Builds the cases of one storage type.
pub(super) struct Make {
    pub(super) storage: StorageType,
}

impl Make {
    /// A one-dimensional tensor.
    pub(super) fn vector(&self, name: &str, values: &[f64]) -> NamedTensor {
        self.tensor(name, &[values.len()], values)
    }

    fn tensor(&self, name: &str, shape: &[usize], values: &[f64]) -> NamedTensor {
        NamedTensor {
            name: name.into(),
            shape: shape.into(),
            gradient: rounded(self.storage, values),
            parameter: None,
            units: None,
        }
    }

    /// Values from -`size` to `size`, drawn from a seed.
    fn drawn(&self, name: &str, shape: &[usize], size: f64, seed: u64) -> NamedTensor {
        let count = shape.iter().product::<usize>();
        let values = draw(count, seed).map(|value| size * value);
        self.tensor(name, shape, &values.collect::<Vec<f64>>())
    }

    /// The gradients of a model with tensors of rank 1, 2 and 3.
    pub(super) fn model(&self, size: f64, seed: u64) -> Vec<NamedTensor> {
        vec![
            self.drawn("layers.1.weight", &[4, 5], size, seed),
            self.drawn("embedding", &[7, 3], size, seed + 1),
            self.drawn("layers.0.weight", &[3, 2, 4], 2.0 * size, seed + 2),
            self.drawn("layers.0.bias", &[4], 0.1 * size, seed + 3),
            self.drawn("layers.1.bias", &[5], 0.1 * size, seed + 4),
            self.drawn("scale", &[1], size, seed + 5),
        ]
    }

    fn with_parameters(&self, tensors: Vec<NamedTensor>, policy: &ClipPolicy) -> Vec<NamedTensor> {
        let with_parameter = |(index, tensor): (usize, NamedTensor)| NamedTensor {
            parameter: policy.needs_parameters().then(|| {
                let drawn = self.drawn("", &tensor.shape, 0.5, 1000 + index as u64);
                drawn.gradient
            }),
            ..tensor
        };
        tensors
            .into_iter()
            .enumerate()
            .map(with_parameter)
            .collect()
    }

    fn training(&self, policy: &ClipPolicy) -> Case {
        let step = |(index, size): (usize, &f64)| {
            self.with_parameters(self.model(*size, 10 * index as u64), policy)
        };
        Case {
            name: "a training run",
            policy: policy.clone(),
            non_finite: NonFinite::Skip,
            steps: SIZES.iter().enumerate().map(step).collect(),
            expected: None,
        }
    }

    fn hard_inputs(&self) -> Vec<(&'static str, Vec<NamedTensor>)> {
        let Extremes { huge, tiny, .. } = Extremes::of(self.storage);
        let with = |tensor: NamedTensor| {
            let mut tensors = self.model(1.0, 7);
            tensors.insert(2, tensor);
            tensors
        };
        let all = |value: f64| self.tensor("w", &[2, 3], &[value; 6]);
        vec![
            ("no tensors", vec![]),
            ("an empty tensor", with(self.vector("e", &[]))),
            ("an empty matrix", with(self.tensor("e", &[0, 3], &[]))),
            ("nothing but empty tensors", vec![self.vector("e", &[])]),
            (
                "a tensor without axes",
                with(self.tensor("s", &[], &[-3.0])),
            ),
            ("nothing but a scalar", vec![self.tensor("s", &[], &[-3.0])]),
            (
                "axes of length one",
                vec![self.tensor("w", &[1, 3, 1], &[3.0, -4.0, 12.0])],
            ),
            ("zeros", vec![all(0.0), self.vector("b", &[0.0; 4])]),
            ("zeros among others", with(all(0.0))),
            (
                "signs of zeros",
                vec![
                    self.tensor("w", &[2, 2], &[-0.0, 0.0, 6.0, -8.0]),
                    self.vector("b", &[-0.0, -0.0, 0.0]),
                ],
            ),
            (
                "a huge tensor beside tiny ones",
                vec![
                    self.vector("tiny", &[tiny, -3.0 * tiny, 0.0]),
                    self.tensor("huge", &[1, 2], &[huge, -huge]),
                    self.vector("ordinary", &[1.0, -0.5]),
                ],
            ),
            (
                "the smallest values",
                vec![
                    self.tensor("w", &[2, 2], &[tiny, -tiny, 2.0 * tiny, -0.0]),
                    self.vector("b", &[5.0 * tiny, -1000.0 * tiny]),
                ],
            ),
        ]
    }

    /// Two of four tensors have non-finite elements; the first and last steps have none.
    fn not_finite(&self, policy: &ClipPolicy, non_finite: NonFinite) -> Case {
        let bad = vec![
            self.vector("finite.last", &[1.0, -2.0, -0.0]),
            self.tensor("bad.w", &[2, 2], &[1.0, f64::NAN, -0.0, 3.0]),
            self.vector("bad.b", &[f64::INFINITY, 0.5, f64::NEG_INFINITY]),
            self.vector("also.finite", &[3.0, 4.0]),
        ];
        let mut good = bad.clone();
        good[1] = self.tensor("bad.w", &[2, 2], &[1.0, 2.0, -0.0, 3.0]);
        good[2] = self.vector("bad.b", &[1.0, 0.5, -1.0]);
        let steps = [good.clone(), bad.clone(), bad, good];
        Case {
            name: "NaN and infinities",
            policy: policy.clone(),
            non_finite,
            steps: steps
                .map(|tensors| self.with_parameters(tensors, policy))
                .into(),
            expected: None,
        }
    }

    /// A tensor of more than one block.
    fn large_tensor(&self, policy: &ClipPolicy) -> Case {
        let tensors = vec![
            self.drawn("large", &[270, 260], 1.0, 3),
            self.drawn("small", &[10], 1.0, 4),
        ];
        Case {
            name: "a large tensor",
            policy: policy.clone(),
            non_finite: NonFinite::Error,
            steps: vec![self.with_parameters(tensors, policy)],
            expected: None,
        }
    }

    /// Two tensors of norms 6 and 8, with a global norm of 10.
    fn six_and_eight(&self, name: &'static str, threshold: f64, factor: f64) -> Case {
        let tensors = |factor: f64| {
            let weight = self.tensor("b.weight", &[2, 1], &[6.0 * factor, -0.0]);
            let bias = self.vector("a.bias", &[0.0, -8.0 * factor, -0.0]);
            [("b.weight", weight), ("a.bias", bias)]
        };
        Case {
            name,
            policy: global_norm(threshold, NormOrder::TWO),
            non_finite: NonFinite::Error,
            steps: vec![tensors(1.0).map(|(_, tensor)| tensor).into()],
            expected: Some(Expected {
                action: match factor == 1.0 {
                    true => ClipAction::Keep,
                    false => ClipAction::Clip,
                },
                norm_before: 10.0,
                norm_after: 10.0 * factor,
                tensors: tensors(factor)
                    .map(|(name, tensor)| (name, tensor.gradient))
                    .into(),
            }),
        }
    }

    /// A norm whose square overflows the storage type, halved.
    fn squares_that_overflow(&self) -> Case {
        let unit = Extremes::of(self.storage).square_overflows;
        let tensor = |factor: f64| self.vector("w", &[3.0 * unit * factor, -4.0 * unit * factor]);
        Case {
            name: "squares that overflow",
            policy: global_norm(2.5 * unit, NormOrder::TWO),
            non_finite: NonFinite::Error,
            steps: vec![vec![tensor(1.0), self.vector("zero", &[0.0])]],
            expected: Some(Expected {
                action: ClipAction::Clip,
                norm_before: 5.0 * unit,
                norm_after: 2.5 * unit,
                tensors: vec![("w", tensor(0.5).gradient)],
            }),
        }
    }

    fn no_tensors(&self) -> Case {
        Case {
            name: "no tensors",
            policy: global_norm(1.0, NormOrder::TWO),
            non_finite: NonFinite::Error,
            steps: vec![vec![]],
            expected: Some(Expected {
                action: ClipAction::Keep,
                norm_before: 0.0,
                norm_after: 0.0,
                tensors: vec![],
            }),
        }
    }

    /// A value that f32 rounds to a tie between two half-precision values: rounding through f32
    /// gives the wrong one.
    fn rounding_once(&self) -> Option<Case> {
        let spacing = Extremes::of(self.storage).spacing_at_one?;
        let coefficient = (1.0 + spacing / 2.0 + 1e-9) / 2.0;
        let threshold = 4.0 * coefficient;
        Some(Case {
            name: "rounding once",
            policy: global_norm(threshold, NormOrder::INFINITY),
            non_finite: NonFinite::Error,
            steps: vec![vec![self.vector("w", &[4.0, 2.0, -2.0])]],
            expected: Some(Expected {
                action: ClipAction::Clip,
                norm_before: 4.0,
                norm_after: threshold,
                tensors: vec![(
                    "w",
                    self.vector("w", &[2.0 + 2.0 * spacing, 1.0 + spacing, -1.0 - spacing])
                        .gradient,
                )],
            }),
        })
    }
}

/// Values near the limits of a storage type.
struct Extremes {
    huge: f64,
    tiny: f64,
    /// A power of two whose square overflows.
    square_overflows: f64,
    /// The distance from 1 to the next value, for types narrower than f32.
    spacing_at_one: Option<f64>,
}

impl Extremes {
    fn of(storage: StorageType) -> Extremes {
        let power_of_two = |exponent: u64| f64::from_bits((1023 + exponent) << 52);
        match storage {
            StorageType::F32 => Extremes {
                huge: 1e20,
                tiny: f64::from(f32::from_bits(1)),
                square_overflows: power_of_two(65),
                spacing_at_one: None,
            },
            StorageType::F64 => Extremes {
                huge: 1e300,
                tiny: f64::from_bits(1),
                square_overflows: power_of_two(600),
                spacing_at_one: None,
            },
            StorageType::F16 => Extremes {
                huge: 6e4,
                tiny: half::f16::from_bits(1).to_f64(),
                square_overflows: power_of_two(13),
                spacing_at_one: Some(half::f16::EPSILON.to_f64()),
            },
            StorageType::Bf16 => Extremes {
                huge: 1e38,
                tiny: half::bf16::from_bits(1).to_f64(),
                square_overflows: power_of_two(65),
                spacing_at_one: Some(half::bf16::EPSILON.to_f64()),
            },
        }
    }
}

fn global_norm(threshold: f64, order: NormOrder) -> ClipPolicy {
    let threshold = Threshold::new(threshold).expect("the thresholds of the suite are positive");
    ClipPolicy::from(ClipRule::GlobalNorm { threshold, order })
}

/// Uniform in [-1, 1).
fn draw(count: usize, seed: u64) -> impl Iterator<Item = f64> {
    let bits = random_bits(seed.wrapping_mul(0xd134_2543_de82_ef95));
    bits.take(count)
        .map(|bits| (bits >> 11) as f64 / (1_u64 << 52) as f64 - 1.0)
}

/// Random 64-bit values (Steele, Lea and Flood 2014, SplitMix64).
pub(super) fn random_bits(mut state: u64) -> impl Iterator<Item = u64> {
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}
