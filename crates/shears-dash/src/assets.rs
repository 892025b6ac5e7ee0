//! The files of the page, embedded in the program: there is no build step, and nothing is loaded
//! from elsewhere.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Path, type and content of a file; for a script its name is enough.
macro_rules! asset {
    ($script:literal) => {
        (
            concat!("/assets/", $script),
            JAVASCRIPT,
            include_str!(concat!("../assets/", $script)),
        )
    };
    ($path:literal, $kind:expr, $file:literal) => {
        ($path, $kind, include_str!(concat!("../assets/", $file)))
    };
}

/// Path, type and content of each file.
const FILES: [(&str, &str, &str); 21] = [
    asset!("/", "text/html; charset=utf-8", "index.html"),
    asset!("/assets/style.css", STYLE, "style.css"),
    asset!("/assets/charts.css", STYLE, "charts.css"),
    asset!("/assets/uplot.css", STYLE, "uplot/uPlot.min.css"),
    asset!("/assets/uplot.js", JAVASCRIPT, "uplot/uPlot.iife.min.js"),
    asset!("/assets/icon.svg", "image/svg+xml", "icon.svg"),
    asset!("main.js"),
    asset!("api.js"),
    asset!("elements.js"),
    asset!("format.js"),
    asset!("list.js"),
    asset!("run.js"),
    asset!("panels.js"),
    asset!("charts.js"),
    asset!("axes.js"),
    asset!("marks.js"),
    asset!("series.js"),
    asset!("heat.js"),
    asset!("compare.js"),
    asset!("problem.js"),
    asset!("step.js"),
];

/// Responds with the file at a path.
pub(crate) fn file(path: &str) -> Response {
    let found = FILES.iter().find(|(known, ..)| *known == path);
    match found {
        Some((_, kind, content)) => ([(header::CONTENT_TYPE, *kind)], *content).into_response(),
        None => (StatusCode::NOT_FOUND, "there is nothing here\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        for (path, _, content) in FILES.iter().filter(|(path, ..)| !path.contains("uplot")) {
            let without = content.replace("http://www.w3.org/2000/svg", "");
            assert!(!without.contains("//cdn"), "{path}");
            assert!(!without.contains("https://"), "{path}");
            assert!(!without.contains("http://"), "{path}");
            let lines = content.lines().count();
            assert!(lines <= 500, "{path} has {lines} lines");
        }
    }

    #[test]
    fn the_page_names_the_window_of_the_clipped_share() {
        let words = format!("share of the last {}", gradclip_judge::statistics::LATELY);
        for script in ["panels.js", "compare.js"] {
            let (.., content) = FILES
                .iter()
                .find(|(path, ..)| path.ends_with(script))
                .unwrap();
            assert!(content.contains(&words), "{script}");
        }
    }

    #[test]
    fn every_imported_script_exists() {
        for (path, _, content) in FILES {
            for part in content.split("from \"./").skip(1) {
                let name = part.split('"').next().unwrap();
                let full = format!("/assets/{name}");
                assert!(
                    FILES.iter().any(|(known, ..)| *known == full),
                    "{path}: {full}"
                );
            }
        }
    }
}
