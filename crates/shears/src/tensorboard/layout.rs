//! Charts with several curves, on TensorBoard's page of custom scalars
//! (`custom_scalar/layout.proto`).

use super::message::Message;
use super::summary::string;

/// The curves that share a chart, such as a norm and its threshold.
const CHARTS: [(&str, &[&str]); 2] = [
    (
        "gradient norm",
        &[
            "^gradient_norm/before$",
            "^gradient_norm/after$",
            "^gradient_norm/threshold$",
        ],
    ),
    ("loss", &["^loss/train$", "^loss/validation$"]),
];

pub(super) fn layout() -> Message {
    let charts = CHARTS.iter().map(|(title, tags)| {
        // Chart: title, multiline (MultilineChartContent: tag)
        let tags = tags
            .iter()
            .fold(Message::new(), |tags, tag| tags.bytes(1, tag));
        Message::new().bytes(1, title).message(2, tags)
    });
    // Category: title, chart
    let category = Message::new().bytes(1, "Shears").messages(2, charts);
    // Layout: category
    let layout = Message::new().message(2, category);
    string(
        "custom_scalars__config__",
        "custom_scalars",
        &layout.into_bytes(),
    )
}
