//! No cycles among the files of a crate, except between a parent and its children: what a file
//! builds on can be read without reading the file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::Visit;
use syn::{Item, ItemMod, ItemUse, UseTree};

/// The path of a module below its crate: none for the root.
type Module = Vec<String>;

/// The references of a file to others.
#[derive(Default)]
struct File {
    /// Names that it hands on from elsewhere (`pub use`, or a `use` that its children read through
    /// it), with the whole path.
    imported: BTreeMap<String, Vec<String>>,
    /// Paths below the crate that it names, each from the root.
    named: BTreeSet<Vec<String>>,
}

/// Collects the paths of one file, without its tests.
struct Reader {
    module: Module,
    file: File,
}

impl Reader {
    /// The path from the root, if it is one of this crate.
    fn resolve(&self, path: &[String]) -> Option<Vec<String>> {
        let first = path.first()?;
        let (mut base, mut rest) = match first.as_str() {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (self.module.clone(), &path[1..]),
            "super" => (self.module.clone(), path),
            _ => return None,
        };
        while rest.first().is_some_and(|part| part == "super") {
            base.pop()?;
            rest = &rest[1..];
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    fn read_use(&mut self, tree: &UseTree, prefix: &mut Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.read_use(&path.tree, prefix);
                prefix.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.read_use(tree, prefix);
                }
            }
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                self.import(prefix, &name, &name);
            }
            UseTree::Rename(rename) => {
                self.import(
                    prefix,
                    &rename.ident.to_string(),
                    &rename.rename.to_string(),
                );
            }
            UseTree::Glob(_) => {
                let path = prefix.clone();
                self.name(&path);
            }
        }
    }

    fn import(&mut self, prefix: &[String], name: &str, known_as: &str) {
        let mut path = prefix.to_vec();
        if name != "self" {
            path.push(name.to_string());
        }
        // `pub use child::Name` in the parent: a path from here.
        let from_here = [self.module.clone(), path.clone()].concat();
        let target = self.resolve(&path).unwrap_or(from_here);
        self.file.imported.insert(known_as.to_string(), target);
        self.name(&path);
    }

    fn name(&mut self, path: &[String]) {
        if let Some(path) = self.resolve(path) {
            self.file.named.insert(path);
        }
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|what| what == "test")
    })
}

impl<'a> Visit<'a> for Reader {
    fn visit_item(&mut self, item: &'a Item) {
        match item {
            Item::Fn(function) if is_for_tests(&function.attrs) => {}
            Item::Use(item) if is_for_tests(&item.attrs) => {}
            _ => syn::visit::visit_item(self, item),
        }
    }

    fn visit_item_mod(&mut self, module: &'a ItemMod) {
        if is_for_tests(&module.attrs) {
            return;
        }
        // A module within a file is part of it, but `super` means the file there.
        self.module.push(module.ident.to_string());
        syn::visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        self.read_use(&item.tree, &mut Vec::new());
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if parts.len() > 1 {
            self.name(&parts);
        }
        syn::visit::visit_path(self, path);
    }
}

/// The files of a crate by their modules.
fn files(source: &Path) -> BTreeMap<Module, File> {
    let mut found = BTreeMap::new();
    let mut open = vec![source.to_path_buf()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            open.extend(entries.map(|entry| entry.unwrap().path()));
            continue;
        }
        let module = module_of(path.strip_prefix(source).unwrap());
        if path.extension().is_none_or(|extension| extension != "rs")
            || module.last().is_some_and(|name| name == "tests")
        {
            continue;
        }
        let syntax = syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap();
        let mut reader = Reader {
            module: module.clone(),
            file: File::default(),
        };
        reader.visit_file(&syntax);
        found.insert(module, reader.file);
    }
    found
}

fn module_of(path: &Path) -> Module {
    let mut parts: Module = path
        .with_extension("")
        .iter()
        .map(|part| part.to_str().unwrap().to_string())
        .collect();
    if matches!(parts.last().map(String::as_str), Some("lib" | "main")) {
        parts.pop();
    }
    parts
}

/// The file that a path from the root leads to: names that a file hands on are followed.
fn destination(files: &BTreeMap<Module, File>, path: &[String], hops: usize) -> Option<Module> {
    let length = (0..=path.len())
        .rev()
        .find(|at| files.contains_key(&path[..*at]))?;
    let module = &path[..length];
    let handed_on = path
        .get(length)
        .and_then(|name| files[module].imported.get(name));
    match handed_on {
        Some(target) if hops > 0 && target.as_slice() != path => {
            destination(files, target, hops - 1).or(Some(module.to_vec()))
        }
        _ => Some(module.to_vec()),
    }
}

/// The files that each file builds on, without those of the root, which is the table of contents.
fn edges(files: &BTreeMap<Module, File>) -> BTreeMap<Module, BTreeSet<Module>> {
    let of = |(module, file): (&Module, &File)| {
        let named = file.named.iter();
        let mut targets: BTreeSet<Module> = named
            .filter_map(|path| destination(files, path, 8))
            .collect();
        targets.remove(module);
        if module.is_empty() {
            targets.clear();
        }
        (module.clone(), targets)
    };
    files.iter().map(of).collect()
}

fn reached<'a>(
    edges: &'a BTreeMap<Module, BTreeSet<Module>>,
    start: &'a Module,
) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&Module> = edges[start].iter().collect();
    while let Some(module) = open.pop() {
        if reached.insert(module) {
            open.extend(&edges[module]);
        }
    }
    reached
}

/// Cycles of files, except between a parent and files below it.
fn circles(files: &BTreeMap<Module, File>) -> Vec<Vec<Module>> {
    let edges = edges(files);
    let all: BTreeMap<&Module, BTreeSet<&Module>> = edges
        .keys()
        .map(|module| (module, reached(&edges, module)))
        .collect();
    let mut found = BTreeSet::new();
    for (module, reached) in &all {
        let circle: Vec<Module> = reached
            .iter()
            .filter(|other| all[*other].contains(*module))
            .map(|other| (*other).clone())
            .collect();
        let has_parent = circle
            .iter()
            .any(|parent| circle.iter().all(|other| other.starts_with(parent)));
        if circle.len() > 1 && !has_parent {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

#[test]
fn files_of_a_crate_form_no_cycle() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut problems = Vec::new();
    for entry in fs::read_dir(crates).unwrap() {
        let folder: PathBuf = entry.unwrap().path();
        let files = files(&folder.join("src"));
        let name = folder.file_name().unwrap().to_str().unwrap();
        for circle in circles(&files) {
            let names: Vec<String> = circle.iter().map(|module| module.join("::")).collect();
            problems.push(format!("{name}: {}", names.join(", ")));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn a_cycle_is_found_through_reexports() {
    let file = |module: &[&str], source: &str| {
        let module: Module = module.iter().map(ToString::to_string).collect();
        let mut reader = Reader {
            module: module.clone(),
            file: File::default(),
        };
        reader.visit_file(&syn::parse_file(source).unwrap());
        (module, reader.file)
    };
    let root = file(&[], "mod a; mod b; mod c; pub use a::A;");
    let a = file(&["a"], "use crate::b::B; pub struct A;");
    let b = file(&["b"], "pub struct B(crate::A);");
    let parent = file(&["c"], "use self::d::D; pub struct C;");
    let child = file(&["c", "d"], "use super::C; pub struct D;");
    let files = BTreeMap::from([root, a, b, parent, child]);
    let expected = vec![vec![vec!["a".to_string()], vec!["b".to_string()]]];
    assert_eq!(circles(&files), expected);
}
