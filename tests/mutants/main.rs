//! Seeded faults, each of which some test must catch: a suite that has never failed proves nothing.
//!
//! The lists are `lua.toml` (the scripts) and `src.toml` (the rest). A plain test run checks that every fault can still
//! be seeded and that the tests it names exist. `make mutants` seeds them one after the other in a copy of the tree and
//! runs those tests; `MUTANT=reclaim,replay make mutants` takes only those with one of these words in their names.

mod list;
mod run;

use list::{Mutant, all};

#[test]
fn every_mutant_can_be_seeded_and_names_tests_that_exist() {
    let mutants = all();
    let faults: Vec<String> = mutants.iter().flat_map(list::faults_of).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));

    let mut names: Vec<&str> = mutants.iter().map(|mutant| mutant.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), mutants.len(), "two mutants have one name");
    assert!(names.len() >= 20, "only {} mutants", names.len());
}

/// Builds the crate once per mutant.
#[test]
#[ignore = "takes about half a minute per mutant: make mutants"]
fn every_mutant_is_caught() {
    let wanted = std::env::var("MUTANT").unwrap_or_default();
    let mutants: Vec<Mutant> = all()
        .into_iter()
        .filter(|mutant| wanted.split(',').any(|word| mutant.name.contains(word)))
        .collect();
    assert!(!mutants.is_empty(), "no mutant is called {wanted:?}");

    let survivors = run::report(&mutants);

    assert!(survivors.is_empty(), "not caught: {survivors:?}");
}
