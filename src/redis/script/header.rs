//! What the header of a script says: the names of its keys and arguments, in their order.

/// The header of one script.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) keys: Names,
    pub(super) args: Names,
}

impl Header {
    /// Reads `-- KEYS[1] lane   what it is` and `-- ARGV[5..] jobs  what they are` from the comment at the top of a script.
    pub(super) fn read(script: &'static str) -> Self {
        Self {
            keys: Names::read(script, "KEYS"),
            args: Names::read(script, "ARGV"),
        }
    }
}

/// The names of the keys or the arguments. The last one may stand for any number of further ones.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) each: Vec<&'static str>,
    pub(super) last_repeats: bool,
}

impl Names {
    fn read(script: &'static str, list: &str) -> Self {
        let mut names = Self {
            each: Vec::new(),
            last_repeats: false,
        };
        for line in lines(script) {
            let item = line
                .strip_prefix("-- ")
                .and_then(|line| line.strip_prefix(list))
                .and_then(|line| line.strip_prefix('['))
                .and_then(|line| line.split_once(']'));
            let Some((number, rest)) = item else {
                continue;
            };
            debug_assert!(
                !names.last_repeats
                    && number.trim_end_matches('.').parse() == Ok(names.each.len() + 1),
                "numbered without a gap: {line}"
            );
            names.each.extend(rest.split_whitespace().next());
            names.last_repeats = number.ends_with("..");
        }
        names
    }

    /// Whether the header calls the item at `index` by this name.
    pub(super) fn is(&self, index: usize, name: &str) -> bool {
        match self.each.get(index) {
            Some(documented) => *documented == name,
            None => self.last_repeats && self.each.last() == Some(&name),
        }
    }

    /// How many there are at least.
    pub(super) fn fixed(&self) -> usize {
        self.each.len() - usize::from(self.last_repeats)
    }
}

/// The lines of the comment at the top.
pub(super) fn lines(script: &'static str) -> impl Iterator<Item = &'static str> {
    script.lines().take_while(|line| line.starts_with("--"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_name_may_stand_for_any_number() {
        let header = Header::read(
            "-- demo: no job moves\n-- KEYS[1] lane  a stream\n-- ARGV[1] group  who\n-- ARGV[2..] entries  which\nreturn 1\n-- KEYS[2] late  no",
        );
        assert!(header.keys.is(0, "lane"));
        assert!(!header.keys.is(1, "lane"));
        assert!(!header.keys.is(0, "dead"));
        assert_eq!(header.keys.fixed(), 1);
        assert!(header.args.is(1, "entries"));
        assert!(header.args.is(7, "entries"));
        assert!(!header.args.is(7, "group"));
        assert_eq!(header.args.fixed(), 1);
    }
}
