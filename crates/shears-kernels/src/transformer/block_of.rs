//! The parameters of a block in any representation.

/// A weight and its optional bias, as tensors, shapes, gradients or slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WithBias<W, B = W> {
    /// `[outputs, inputs]`; for a norm `[hidden]`.
    pub weight: W,
    /// `[outputs]`; for a norm `[hidden]`.
    pub bias: Option<B>,
}

impl<W, B> WithBias<W, B> {
    /// Creates the pair.
    pub fn new(weight: W, bias: Option<B>) -> Self {
        WithBias { weight, bias }
    }
}

/// A value for each parameter of a block: an `M` per matrix, a `V` per vector. `keys` is the total
/// width of the key heads, `inner` the width of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockOf<M, V = M> {
    /// The norm before the attention.
    pub norm_1: WithBias<V>,
    /// Queries, keys and values: `[hidden + 2 keys, hidden]`.
    pub qkv: WithBias<M, V>,
    /// After the attention: `[hidden, hidden]`.
    pub projection: WithBias<M, V>,
    /// The norm before the MLP.
    pub norm_2: WithBias<V>,
    /// The first product of the MLP: `[inner, hidden]`, with a gate `[2 inner, hidden]`, gate
    /// first.
    pub expand: WithBias<M, V>,
    /// The second product of the MLP: `[hidden, inner]`.
    pub project: WithBias<M, V>,
}

impl<M, V> BlockOf<M, V> {
    /// Converts every matrix and every vector.
    pub(super) fn map<M2, V2>(
        self,
        matrix: impl Fn(M) -> M2,
        vector: impl Fn(V) -> V2,
    ) -> BlockOf<M2, V2> {
        let norm = |of: WithBias<V>| WithBias::new(vector(of.weight), of.bias.map(&vector));
        let linear = |of: WithBias<M, V>| WithBias::new(matrix(of.weight), of.bias.map(&vector));
        BlockOf {
            norm_1: norm(self.norm_1),
            qkv: linear(self.qkv),
            projection: linear(self.projection),
            norm_2: norm(self.norm_2),
            expand: linear(self.expand),
            project: linear(self.project),
        }
    }

    /// References to all parameters.
    pub(super) fn as_ref(&self) -> BlockOf<&M, &V> {
        fn both<W, B>(of: &WithBias<W, B>) -> WithBias<&W, &B> {
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
}

impl<T> BlockOf<T> {
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
