//! The pages of docs/, read as a reader would: fenced blocks, and the commands of those that are a session at a terminal.
//!
//! What a reader does not see stands in a comment of its own line. `<!-- run: COMMAND -->` is carried out where it stands, to set
//! the scene; `<!-- not run: WHY -->` leaves the next session out.

/// A fenced block, or what stands in a comment between two.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Block { language: &'a str, text: String },
    Run(&'a str),
    NotRun(&'a str),
}

/// A command of a page, and what it prints there.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) command: String,
    pub(crate) printed: Vec<String>,
}

/// The page without its prose.
pub(crate) fn parts_of(page: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut open: Option<(&str, String)> = None;
    for line in page.lines() {
        let comment = |kind: &str| Some(line.strip_prefix(kind)?.strip_suffix("-->")?.trim());
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some("")) => {
                let (language, text) = open.take().expect("it is open");
                parts.push(Part::Block { language, text });
            }
            (Some((_, text)), _) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, Some(language)) => open = Some((language, String::new())),
            (None, None) => {
                parts.extend(comment("<!-- run:").map(Part::Run));
                parts.extend(comment("<!-- not run:").map(Part::NotRun));
            }
        }
    }
    assert!(open.is_none(), "a block is not closed");
    parts
}

/// The texts of the blocks in this language.
pub(crate) fn blocks_of(page: &str, language: &str) -> Vec<String> {
    let parts = parts_of(page).into_iter();
    let of_language = parts.filter_map(|part| match part {
        Part::Block { language: of, text } if of == language => Some(text),
        _ => None,
    });
    of_language.collect()
}

/// The `$ ` lines of a session. A here-document and a backslash at a line's end continue a command.
pub(crate) fn steps_of(session: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut until: Option<String> = None;
    for line in session.lines() {
        if let Some(end) = &until {
            let step = steps.last_mut().expect("a command was begun");
            step.command.push('\n');
            step.command.push_str(line);
            if line == end || (end == "\\" && !line.ends_with('\\')) {
                until = None;
            }
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step {
                command: command.to_owned(),
                ..Step::default()
            });
            let document = command
                .split_once("<<'")
                .and_then(|(_, rest)| rest.split_once('\''));
            until = document.map(|(end, _)| end.to_owned());
            if command.ends_with('\\') {
                until = Some("\\".to_owned());
            }
        } else {
            let step = steps.last_mut().expect("a block begins with a command");
            step.printed.push(line.to_owned());
        }
    }
    steps
}
