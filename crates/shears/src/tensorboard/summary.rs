//! Values of a summary: a number, a histogram, a text.

use super::message::Message;

/// Buckets of a histogram, as in TensorBoard's own writer.
const BUCKETS: usize = 30;

/// `SummaryMetadata.DataClass`.
const DATA_CLASS_TENSOR: u64 = 2;
/// `DataType`.
const FLOAT: u64 = 1;
const STRING: u64 = 7;

/// A scalar, which TensorBoard stores in single precision.
pub(super) fn scalar(tag: &str, value: f64) -> Message {
    // Summary.Value: tag, simple_value
    Message::new().bytes(1, tag).float(2, value as f32)
}

/// A histogram of at least one number.
pub(super) fn histogram(tag: &str, numbers: &[f64]) -> Message {
    let min = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let max = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // Equal numbers share one bucket.
    let buckets = if max > min { BUCKETS } else { 1 };
    let width = (max - min) / buckets as f64;
    let mut counts = vec![0.0; buckets];
    for number in numbers {
        // The largest number belongs to the last bucket; equal numbers give NaN, which becomes 0.
        let bucket = ((number - min) / width) as usize;
        counts[bucket.min(buckets - 1)] += 1.0;
    }
    let limit = |bucket: usize| match bucket + 1 == buckets {
        true => max,
        false => min + width * (bucket + 1) as f64,
    };
    let limits: Vec<f64> = (0..buckets).map(limit).collect();
    // HistogramProto
    let histogram = Message::new()
        .double(1, min)
        .double(2, max)
        .double(3, numbers.len() as f64)
        .double(4, numbers.iter().sum())
        .double(5, numbers.iter().map(|number| number * number).sum())
        .doubles(6, &limits)
        .doubles(7, &counts);
    // Summary.Value: tag, histo
    Message::new().bytes(1, tag).message(5, histogram)
}

/// A text, shown verbatim.
pub(super) fn text(tag: &str, text: &str) -> Message {
    // TensorBoard renders Markdown, where lines indented by four spaces are verbatim.
    let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
    string(tag, "text", lines.join("\n").as_bytes())
}

/// Bytes for a plugin.
pub(super) fn string(tag: &str, plugin: &str, value: &[u8]) -> Message {
    // TensorProto: string_val
    let tensor = single(STRING).bytes(8, value);
    for_plugin(tag, plugin, tensor, Message::new())
}

/// Metadata of a plugin, on a value of zero.
pub(super) fn of_plugin(tag: &str, plugin: &str, content: Message) -> Message {
    // TensorProto: tensor_content
    let tensor = single(FLOAT).bytes(4, 0_f32.to_le_bytes());
    for_plugin(tag, plugin, tensor, content)
}

/// `TensorProto` with dtype and tensor_shape: one `Dim` of size 1.
fn single(kind: u64) -> Message {
    let shape = Message::new().message(2, Message::new().integer(1, 1));
    Message::new().integer(1, kind).message(2, shape)
}

/// `Summary.Value` with tag, tensor and metadata (`SummaryMetadata`: plugin_data with plugin_name
/// and content, data_class).
fn for_plugin(tag: &str, plugin: &str, tensor: Message, content: Message) -> Message {
    let data = Message::new().bytes(1, plugin).message(2, content);
    let metadata = Message::new().message(1, data);
    Message::new()
        .bytes(1, tag)
        .message(8, tensor)
        .message(9, metadata.integer(4, DATA_CLASS_TENSOR))
}
