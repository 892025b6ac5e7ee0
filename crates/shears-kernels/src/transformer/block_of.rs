//! The parameters of a block in any representation.

/// A weight and its optional bias, as tensors, shapes, gradients or slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WithBias<T> {
    /// `[outputs, inputs]`; for a norm `[hidden]`.
    pub weight: T,
    /// `[outputs]`; for a norm `[hidden]`.
    pub bias: Option<T>,
}

impl<T> WithBias<T> {
    /// Creates the pair.
    pub fn new(weight: T, bias: Option<T>) -> Self {
        WithBias { weight, bias }
    }

    /// Converts both, if both can be.
    pub(crate) fn try_map<U>(self, convert: impl Fn(T) -> Option<U>) -> Option<WithBias<U>> {
        Some(WithBias {
            weight: convert(self.weight)?,
            bias: match self.bias {
                Some(bias) => Some(convert(bias)?),
                None => None,
            },
        })
    }
}

/// A value for each parameter of a block. `keys` is the total width of the key heads, `inner` the
/// width of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockOf<T> {
    /// The norm before the attention.
    pub norm_1: WithBias<T>,
    /// Queries, keys and values: `[hidden + 2 keys, hidden]`.
    pub qkv: WithBias<T>,
    /// After the attention: `[hidden, hidden]`.
    pub projection: WithBias<T>,
    /// The norm before the MLP.
    pub norm_2: WithBias<T>,
    /// The first product of the MLP: `[inner, hidden]`, with a gate `[2 inner, hidden]`, gate
    /// first.
    pub expand: WithBias<T>,
    /// The second product of the MLP: `[hidden, inner]`.
    pub project: WithBias<T>,
}

impl<T> BlockOf<T> {
    /// Converts every value.
    pub(super) fn map<U>(self, convert: impl Fn(T) -> U) -> BlockOf<U> {
        let (weights, biases) = self.into_arrays();
        BlockOf::from_arrays(weights.map(&convert), biases.map(|bias| bias.map(&convert)))
    }

    /// Converts every value, if all can be.
    pub(super) fn try_map<U>(self, convert: impl Fn(T) -> Option<U>) -> Option<BlockOf<U>> {
        let with_bias = |of: WithBias<T>| of.try_map(&convert);
        Some(BlockOf {
            norm_1: with_bias(self.norm_1)?,
            qkv: with_bias(self.qkv)?,
            projection: with_bias(self.projection)?,
            norm_2: with_bias(self.norm_2)?,
            expand: with_bias(self.expand)?,
            project: with_bias(self.project)?,
        })
    }

    /// References to all values.
    pub(super) fn as_ref(&self) -> BlockOf<&T> {
        fn both<T>(of: &WithBias<T>) -> WithBias<&T> {
            WithBias::new(&of.weight, of.bias.as_ref())
        }
        BlockOf {
            norm_1: both(&self.norm_1),
            qkv: both(&self.qkv),
            projection: both(&self.projection),
            norm_2: both(&self.norm_2),
            expand: both(&self.expand),
            project: both(&self.project),
        }
    }

    /// Creates a block from weights and biases in the order of the fields.
    pub(super) fn from_arrays(weights: [T; 6], biases: [Option<T>; 6]) -> BlockOf<T> {
        let mut biases = biases.into_iter();
        let all = weights.map(|weight| WithBias::new(weight, biases.next().flatten()));
        let [norm_1, qkv, projection, norm_2, expand, project] = all;
        BlockOf {
            norm_1,
            qkv,
            projection,
            norm_2,
            expand,
            project,
        }
    }

    /// The inverse of [`BlockOf::from_arrays`].
    pub(super) fn into_arrays(self) -> ([T; 6], [Option<T>; 6]) {
        let all = [
            self.norm_1,
            self.qkv,
            self.projection,
            self.norm_2,
            self.expand,
            self.project,
        ];
        let mut biases = [const { None }; 6];
        let mut places = biases.iter_mut();
        let weights = all.map(|of| {
            if let Some(place) = places.next() {
                *place = of.bias;
            }
            of.weight
        });
        (weights, biases)
    }
}
