//! The list of mutants, and what makes an entry a sound one.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// One seeded fault.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mutant {
    pub(crate) name: String,
    /// What is wrong with it, in one sentence.
    pub(crate) what: String,
    /// From the root of the tree.
    pub(crate) file: String,
    /// Occurs once in the file.
    pub(crate) find: String,
    pub(crate) replace: String,
    /// Every one of them fails.
    pub(crate) caught_by: Vec<Catcher>,
    /// A test that does not end in time has caught it.
    #[serde(default)]
    pub(crate) hangs: bool,
}

/// A test by its full name.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Catcher {
    /// A directory below `tests/`, or `lib` for the tests in `src/`.
    pub(crate) target: String,
    pub(crate) test: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutant: Vec<Mutant>,
}

/// Where the tree is.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn all() -> Vec<Mutant> {
    [
        ("lua.toml", include_str!("lua.toml")),
        ("src.toml", include_str!("src.toml")),
    ]
    .into_iter()
    .flat_map(|(file, text)| {
        let list: List = toml::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        list.mutant
    })
    .collect()
}

impl Mutant {
    /// The file's text with the fault in it. `Err`: it cannot be seeded.
    pub(crate) fn seeded(&self, sound: &str) -> Result<String, String> {
        match sound.matches(&self.find).count() {
            1 if self.find != self.replace => Ok(sound.replacen(&self.find, &self.replace, 1)),
            1 => Err(format!("{}: nothing is changed", self.name)),
            count => Err(format!(
                "{}: its text occurs {count} times in {}",
                self.name, self.file
            )),
        }
    }
}

/// What keeps the entry from being one.
pub(crate) fn faults_of(mutant: &Mutant) -> Vec<String> {
    let sound = fs::read_to_string(root().join(&mutant.file)).unwrap_or_default();
    let mut faults: Vec<String> = mutant.seeded(&sound).err().into_iter().collect();
    if mutant.caught_by.is_empty() {
        faults.push(format!("{}: nothing catches it", mutant.name));
    }
    let unknown = mutant.caught_by.iter().filter(|catcher| !exists(catcher));
    faults.extend(unknown.map(|catcher| {
        format!(
            "{}: there is no test {} in {}",
            mutant.name, catcher.test, catcher.target
        )
    }));
    faults
}

/// Whether the test's module has a function of its name.
fn exists(catcher: &Catcher) -> bool {
    let directory = match catcher.target.as_str() {
        "lib" => root().join("src"),
        target => root().join("tests").join(target),
    };
    let (modules, function) = catcher
        .test
        .rsplit_once("::")
        .unwrap_or(("main", &catcher.test));
    // A module's file, or that of the one it is written in.
    let modules = modules.replace("::", "/");
    let outer = modules.strip_suffix("/tests").unwrap_or_default();
    [format!("{modules}.rs"), format!("{modules}/mod.rs")]
        .into_iter()
        .chain([format!("{outer}.rs"), format!("{outer}/mod.rs")])
        .map(|file| directory.join(file))
        .any(|file: PathBuf| {
            fs::read_to_string(file).is_ok_and(|text| text.contains(&format!("fn {function}(")))
        })
}
