//! The twelve tensors of a block, in whatever form.

/// A weight and its bias, or the same of their shapes, gradients or slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WithBias<W, B = W> {
    /// `[outputs, inputs]`; of a layer norm `[hidden]`.
    pub weight: W,
    /// `[outputs]`; of a layer norm `[hidden]`.
    pub bias: B,
}

impl<W, B> WithBias<W, B> {
    /// Both together.
    pub fn new(weight: W, bias: B) -> Self {
        WithBias { weight, bias }
    }
}

/// Something for each parameter of a block: an `M` for a matrix, a `V` for a vector. `inner` is
/// usually `4 hidden`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockOf<M, V = M> {
    /// Before the attention.
    pub norm_1: WithBias<V>,
    /// Queries, keys and values: `[3 hidden, hidden]`.
    pub qkv: WithBias<M, V>,
    /// After the attention: `[hidden, hidden]`.
    pub projection: WithBias<M, V>,
    /// Before the perceptron.
    pub norm_2: WithBias<V>,
    /// `[inner, hidden]`
    pub expand: WithBias<M, V>,
    /// `[hidden, inner]`
    pub project: WithBias<M, V>,
}

impl<M, V> BlockOf<M, V> {
    /// Another form of the same.
    pub(super) fn map<M2, V2>(
        self,
        matrix: impl Fn(M) -> M2,
        vector: impl Fn(V) -> V2,
    ) -> BlockOf<M2, V2> {
        let norm = |of: WithBias<V>| WithBias::new(vector(of.weight), vector(of.bias));
        let linear = |of: WithBias<M, V>| WithBias::new(matrix(of.weight), vector(of.bias));
        BlockOf {
            norm_1: norm(self.norm_1),
            qkv: linear(self.qkv),
            projection: linear(self.projection),
            norm_2: norm(self.norm_2),
            expand: linear(self.expand),
            project: linear(self.project),
        }
    }

    /// References to all of them.
    pub(super) fn as_ref(&self) -> BlockOf<&M, &V> {
        fn both<W, B>(of: &WithBias<W, B>) -> WithBias<&W, &B> {
            WithBias::new(&of.weight, &of.bias)
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
    /// In the order of the fields, each weight before its bias.
    pub(super) fn from_array(all: [T; 12]) -> BlockOf<T> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = all;
        BlockOf {
            norm_1: WithBias::new(a, b),
            qkv: WithBias::new(c, d),
            projection: WithBias::new(e, f),
            norm_2: WithBias::new(g, h),
            expand: WithBias::new(i, j),
            project: WithBias::new(k, l),
        }
    }

    /// The inverse of [`BlockOf::from_array`].
    pub(super) fn into_array(self) -> [T; 12] {
        [
            self.norm_1.weight,
            self.norm_1.bias,
            self.qkv.weight,
            self.qkv.bias,
            self.projection.weight,
            self.projection.bias,
            self.norm_2.weight,
            self.norm_2.bias,
            self.expand.weight,
            self.expand.bias,
            self.project.weight,
            self.project.bias,
        ]
    }
}
