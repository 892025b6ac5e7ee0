//! The colours, each with its counterpart for dark pages.

use plotters::style::RGBColor;

/// The number of [`Colour::Series`]; more could not be told apart by everybody.
pub const MOST_COLOURS: usize = 7;

/// A colour of a plot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Colour {
    /// The colour of text.
    #[default]
    Ink,
    /// For the background.
    Grey,
    /// Black, blue, vermilion, green, purple, orange, sky blue: the palette of Okabe and Ito, which
    /// people with colour blindness can distinguish. Larger indices start over.
    Series(usize),
}

pub(crate) const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xff);
pub(crate) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
pub(crate) const GREY: RGBColor = RGBColor(0x77, 0x77, 0x77);
pub(crate) const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);
const SERIES: [RGBColor; MOST_COLOURS] = [
    RGBColor(0x00, 0x00, 0x00),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
];
/// Those of paper, ink, grey and grid, then those of the series.
const DARK: [&str; 4 + MOST_COLOURS] = [
    "#15171c", "#e6e7ea", "#9a9ca3", "#33363d", "#fafafa", "#3f96d8", "#ff8638", "#2cc498",
    "#e39ac4", "#f0b429", "#9bdcff",
];

impl Colour {
    pub(crate) fn rgb(self) -> RGBColor {
        match self {
            Colour::Ink => INK,
            Colour::Grey => GREY,
            Colour::Series(index) => SERIES[index % MOST_COLOURS],
        }
    }
}

/// A style sheet that replaces every colour on a dark page. It matches the attributes with the
/// light colours, so that programs without style sheets show the light plot.
pub(crate) fn dark_style() -> String {
    let light = [PAPER, INK, GREY, GRID].into_iter().chain(SERIES);
    let rules = light.zip(DARK).map(|(RGBColor(red, green, blue), dark)| {
        let light = format!("#{red:02X}{green:02X}{blue:02X}");
        format!("svg [fill=\"{light}\"]{{fill:{dark}}}svg [stroke=\"{light}\"]{{stroke:{dark}}}\n")
    });
    let rules: String = rules.collect();
    format!("<style>@media (prefers-color-scheme:dark){{\n{rules}}}</style>\n")
}
