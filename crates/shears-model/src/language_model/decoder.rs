//! Reading one text token by token, for generation.

use std::error::Error;

use burn::tensor::{Device, Int, Tensor, TensorData};
use shears_kernels::{RecurrentDecoder, TransformerDecoder};

use super::{LanguageModel, State};

/// A model in the middle of one text.
pub trait Decoder {
    /// Reads the next tokens of the text, at least one, and returns the logits `[vocabulary]` of
    /// the token after them.
    ///
    /// # Errors
    ///
    /// If the device fails. A decoder must not be used any more then.
    ///
    /// # Panics
    ///
    /// If a token is not in the vocabulary. A text that exceeds the model's context may panic, too,
    /// which callers must prevent.
    fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>, DecoderError>;

    /// Forgets the text.
    fn restart(&mut self);
}

/// Why a device could not compute logits.
pub type DecoderError = Box<dyn Error + Send + Sync>;

/// The decoder of any model, on any device: [`LanguageModel::predict`] with the state that it
/// returned.
pub(crate) struct Stateful<'a, M: LanguageModel> {
    model: &'a M,
    device: Device,
    state: State,
}

impl<'a, M: LanguageModel> Stateful<'a, M> {
    pub(crate) fn new(model: &'a M, device: &Device) -> Self {
        Stateful {
            model,
            device: device.clone(),
            state: State::default(),
        }
    }
}

impl<M: LanguageModel> Decoder for Stateful<'_, M> {
    fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>, DecoderError> {
        let ids: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
        let ids = TensorData::new(ids, [1, tokens.len()]);
        let input = Tensor::<2, Int>::from_data(ids, &self.device); // [1, time]
        let state = std::mem::take(&mut self.state);
        let (logits, state) = self.model.predict(input, state); // [1, vocabulary]
        self.state = state;
        let logits = logits.try_into_vec_as::<f32>();
        logits.map_err(|error| error.to_string().into())
    }

    fn restart(&mut self) {
        self.state = State::default();
    }
}

/// Those of our own models, on the CPU device.
macro_rules! decoders {
    ($($decoder:ty),*) => {$(
        impl Decoder for $decoder {
            fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>, DecoderError> {
                Ok(self.read(tokens))
            }

            fn restart(&mut self) {
                self.restart();
            }
        }
    )*};
}

decoders!(RecurrentDecoder, TransformerDecoder);
