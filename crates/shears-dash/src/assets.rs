//! The page itself, which is part of the program: nothing is built, and nothing comes from
//! elsewhere.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// Path, type and content of each file.
const FILES: [(&str, &str, &str); 17] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("../assets/index.html"),
    ),
    (
        "/assets/style.css",
        STYLE,
        include_str!("../assets/style.css"),
    ),
    (
        "/assets/charts.css",
        STYLE,
        include_str!("../assets/charts.css"),
    ),
    (
        "/assets/uplot.css",
        STYLE,
        include_str!("../assets/uplot/uPlot.min.css"),
    ),
    (
        "/assets/uplot.js",
        JAVASCRIPT,
        include_str!("../assets/uplot/uPlot.iife.min.js"),
    ),
    (
        "/assets/icon.svg",
        "image/svg+xml",
        include_str!("../assets/icon.svg"),
    ),
    (
        "/assets/main.js",
        JAVASCRIPT,
        include_str!("../assets/main.js"),
    ),
    (
        "/assets/api.js",
        JAVASCRIPT,
        include_str!("../assets/api.js"),
    ),
    (
        "/assets/elements.js",
        JAVASCRIPT,
        include_str!("../assets/elements.js"),
    ),
    (
        "/assets/format.js",
        JAVASCRIPT,
        include_str!("../assets/format.js"),
    ),
    (
        "/assets/list.js",
        JAVASCRIPT,
        include_str!("../assets/list.js"),
    ),
    (
        "/assets/run.js",
        JAVASCRIPT,
        include_str!("../assets/run.js"),
    ),
    (
        "/assets/panels.js",
        JAVASCRIPT,
        include_str!("../assets/panels.js"),
    ),
    (
        "/assets/charts.js",
        JAVASCRIPT,
        include_str!("../assets/charts.js"),
    ),
    (
        "/assets/heat.js",
        JAVASCRIPT,
        include_str!("../assets/heat.js"),
    ),
    (
        "/assets/compare.js",
        JAVASCRIPT,
        include_str!("../assets/compare.js"),
    ),
    (
        "/assets/step.js",
        JAVASCRIPT,
        include_str!("../assets/step.js"),
    ),
];

/// Answers with the file of a path.
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
    fn the_page_names_the_window_that_the_server_counts_over() {
        let words = format!("share of the last {}", gradclip_judge::statistics::LATELY);
        for script in ["panels.js", "compare.js"] {
            let (.., content) = FILES
                .iter()
                .find(|(path, ..)| path.ends_with(script))
                .unwrap();
            assert!(content.contains(&words), "{script}");
        }
    }

    /// CSS cannot join a media query with an attribute, so the dark colours are there twice.
    #[test]
    fn dark_is_the_same_however_it_was_chosen() {
        let style = include_str!("../assets/style.css");
        let colours = |start: &str| -> Vec<&str> {
            let block = style.split_once(start).unwrap().1;
            let block = block.split('}').next().unwrap().trim();
            block.lines().map(str::trim).collect()
        };
        let by_system = colours(":root:not([data-theme=\"light\"]) {");
        let by_choice = colours(":root[data-theme=\"dark\"] {");
        assert!(by_system.len() > 20);
        assert_eq!(by_system, by_choice);
    }

    #[test]
    fn every_script_that_is_imported_is_there() {
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
