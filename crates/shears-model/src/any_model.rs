//! A model whose kind is known at run time.

use burn::module::{Devices, Module, ModuleMapper, ModuleVisitor};
use burn::tensor::{Device, Int, Tensor};

use crate::config::{Architecture, ModelConfig};
use crate::gru::gru;
use crate::language_model::{Decoder, LanguageModel, Reading, State};
use crate::layers::Initializer;
use crate::lstm::lstm;
use crate::recurrent::RecurrentModel;
use crate::rnn::rnn;
use crate::transformer::Transformer;

/// Any of the models, for programs that read from a configuration which one it is. Its parameters
/// have the names that they have in the model itself.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a program has one or two of them"
)]
pub enum AnyModel {
    /// A vanilla RNN, an LSTM or a GRU.
    Recurrent(RecurrentModel),
    /// A Transformer.
    Transformer(Transformer),
}

impl AnyModel {
    /// Creates a model for `vocabulary` tokens.
    pub fn new(vocabulary: usize, config: &ModelConfig, initializer: &mut Initializer) -> Self {
        let recurrent = match config.architecture {
            Architecture::Rnn => rnn,
            Architecture::Lstm => lstm,
            Architecture::Gru => gru,
            Architecture::Transformer => {
                let model = Transformer::new(vocabulary, config, initializer);
                return AnyModel::Transformer(model);
            }
        };
        AnyModel::Recurrent(recurrent(vocabulary, config, initializer))
    }
}

/// Evaluates an expression with the model inside.
macro_rules! inside {
    ($any:expr, $model:ident => $result:expr) => {
        match $any {
            AnyModel::Recurrent($model) => $result,
            AnyModel::Transformer($model) => $result,
        }
    };
}

/// The same for an expression that is a model of the same kind.
macro_rules! replaced {
    ($any:expr, $model:ident => $result:expr) => {
        match $any {
            AnyModel::Recurrent($model) => AnyModel::Recurrent($result),
            AnyModel::Transformer($model) => AnyModel::Transformer($result),
        }
    };
}

/// By hand, because the derived one begins the name of each parameter with that of the variant.
impl Module for AnyModel {
    fn collect_devices(&self, devices: Devices) -> Devices {
        inside!(self, model => model.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        replaced!(self, model => model.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        replaced!(self, model => model.to_device(device))
    }

    fn train(self) -> Self {
        replaced!(self, model => model.train())
    }

    fn valid(&self) -> Self {
        replaced!(self, model => model.valid())
    }

    fn materialize(self) -> Self {
        replaced!(self, model => model.materialize())
    }

    fn visit<Visitor: ModuleVisitor>(&self, visitor: &mut Visitor) {
        inside!(self, model => model.visit(visitor));
    }

    fn map<Mapper: ModuleMapper>(self, mapper: &mut Mapper) -> Self {
        replaced!(self, model => model.map(mapper))
    }
}

impl LanguageModel for AnyModel {
    fn forward(&self, tokens: Tensor<2, Int>, state: State) -> (Tensor<3>, State) {
        inside!(self, model => model.forward(tokens, state))
    }

    fn predict(&self, tokens: Tensor<2, Int>, state: State) -> (Tensor<2>, State) {
        inside!(self, model => model.predict(tokens, state))
    }

    fn loss(
        &self,
        tokens: Tensor<2, Int>,
        targets: Tensor<2, Int>,
        state: State,
    ) -> (Tensor<1>, State) {
        inside!(self, model => model.loss(tokens, targets, state))
    }

    fn decoder<'a>(&'a self, device: &Device) -> Box<dyn Decoder + 'a> {
        inside!(self, model => model.decoder(device))
    }

    fn for_generation(self) -> Self {
        replaced!(self, model => model.for_generation())
    }

    fn reading(&self) -> Reading {
        inside!(self, model => model.reading())
    }

    fn output_layer(&self) -> Vec<String> {
        inside!(self, model => model.output_layer())
    }
}
