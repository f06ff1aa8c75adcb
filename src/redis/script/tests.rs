//! Headers, bodies and the state table are held to each other.

use super::*;
use crate::job::state::{State, TRANSITIONS};

#[test]
fn every_documented_key_and_argument_is_used_and_no_other() {
    for script in ALL {
        let body: String = script
            .own
            .lines()
            .filter(|line| !line.starts_with("--"))
            .collect::<Vec<_>>()
            .join("\n");
        let header = script.header();
        for (list, names) in [("KEYS", &header.keys), ("ARGV", &header.args)] {
            for (index, name) in names.each.iter().enumerate() {
                let by_number = format!("{list}[{}]", index + 1);
                let used = if names.last_repeats && index >= names.fixed() {
                    body.contains(list)
                } else {
                    body.contains(&by_number)
                };
                assert!(used, "{} never uses {by_number} {name}", script.name);
            }
            if names.last_repeats {
                continue;
            }
            let beyond = format!("{list}[{}]", names.each.len() + 1);
            assert!(
                !body.contains(&beyond),
                "{} uses {beyond}, which its header does not name",
                script.name
            );
        }
    }
}

#[test]
fn headers_tell_the_transitions_of_the_state_table() {
    let state = |name: &str| match name {
        "new" | "gone" => None,
        "scheduled" => Some(State::Scheduled),
        "held" => Some(State::Held),
        "ready" => Some(State::Ready),
        "running" => Some(State::Running),
        "completed" => Some(State::Completed),
        "dead" => Some(State::Dead),
        "cancelled" => Some(State::Cancelled),
        other => panic!("unknown state {other}"),
    };
    let mut told = Vec::new();
    for script in ALL {
        let first = script
            .own
            .strip_prefix(&format!("-- {}: ", script.name))
            .and_then(|rest| rest.lines().next())
            .expect("the header names the script");
        if first == "no job moves" {
            assert!(
                TRANSITIONS
                    .iter()
                    .all(|(_, transition, _)| transition.name() != script.name)
            );
            continue;
        }
        for arrows in first.split("; ") {
            let (from, to) = arrows.split_once(" -> ").expect("from -> to");
            for from in from.split(" | ") {
                for to in to.split(" | ") {
                    told.push((state(from), script.name, state(to)));
                }
            }
        }
    }
    let mut table: Vec<_> = TRANSITIONS
        .iter()
        .map(|(from, how, to)| (*from, how.name(), *to))
        .collect();
    let order = |row: &(Option<State>, &str, Option<State>)| format!("{row:?}");
    told.sort_by_key(order);
    // A transition may be made in more than one way.
    told.dedup();
    table.sort_by_key(order);
    assert_eq!(told, table);
}

#[test]
fn every_file_below_lua_is_embedded() {
    let lua = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("lua");
    for folder in [lua.clone(), lua.join("lib")] {
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "lua") {
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(
                    ALL.iter().any(|script| script.source.contains(&text)),
                    "{path:?} is in no script"
                );
            }
        }
    }
}
