use super::*;

fn ms(moment: &str) -> i64 {
    moment.parse::<Timestamp>().unwrap().as_millisecond()
}

fn shown(ms: i64) -> String {
    Timestamp::from_millisecond(ms).unwrap().to_string()
}

/// The slots after the first moment, up to the second.
fn slots(timing: &Timing, after: &str, until: &str) -> Vec<String> {
    let (mut at, mut found) = (ms(after), Vec::new());
    while let Some(slot) = timing.next_after(at).filter(|slot| *slot <= ms(until)) {
        found.push(shown(slot));
        at = slot;
    }
    found
}

/// Expression, zone, after, until, and every slot in between.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

/// Nights in which the clock on the wall jumps; see `docs/schedules.md`.
const TABLE: &[Row] = &[
    // New York, 2027-03-14: 02:00 EST is 03:00 EDT. What was due in the gap comes at its end, once.
    (
        "30 2 * * *",
        "America/New_York",
        "2027-03-13T12:00:00Z",
        "2027-03-15T12:00:00Z",
        &["2027-03-14T07:00:00Z", "2027-03-15T06:30:00Z"],
    ),
    (
        "0 2 * * *",
        "America/New_York",
        "2027-03-13T12:00:00Z",
        "2027-03-14T12:00:00Z",
        &["2027-03-14T07:00:00Z"],
    ),
    (
        "30 1 * * *",
        "America/New_York",
        "2027-03-13T12:00:00Z",
        "2027-03-14T12:00:00Z",
        &["2027-03-14T06:30:00Z"],
    ),
    (
        "*/30 * * * *",
        "America/New_York",
        "2027-03-14T06:00:00Z",
        "2027-03-14T08:00:00Z",
        &[
            "2027-03-14T06:30:00Z",
            "2027-03-14T07:00:00Z",
            "2027-03-14T07:30:00Z",
            "2027-03-14T08:00:00Z",
        ],
    ),
    // New York, 2027-11-07: 02:00 EDT is 01:00 EST. A time that comes twice fires once, at the first.
    (
        "30 1 * * *",
        "America/New_York",
        "2027-11-06T12:00:00Z",
        "2027-11-08T12:00:00Z",
        &["2027-11-07T05:30:00Z", "2027-11-08T06:30:00Z"],
    ),
    (
        "0 2 * * *",
        "America/New_York",
        "2027-11-06T12:00:00Z",
        "2027-11-07T12:00:00Z",
        &["2027-11-07T07:00:00Z"],
    ),
    (
        "*/30 * * * *",
        "America/New_York",
        "2027-11-07T05:00:00Z",
        "2027-11-07T07:00:00Z",
        &[
            "2027-11-07T05:30:00Z",
            "2027-11-07T06:00:00Z",
            "2027-11-07T06:30:00Z",
            "2027-11-07T07:00:00Z",
        ],
    ),
    // Vienna, 2027-03-28: 02:00 CET is 03:00 CEST; 2027-10-31: 03:00 CEST is 02:00 CET.
    (
        "30 2 * * *",
        "Europe/Vienna",
        "2027-03-27T12:00:00Z",
        "2027-03-29T12:00:00Z",
        &["2027-03-28T01:00:00Z", "2027-03-29T00:30:00Z"],
    ),
    (
        "30 2 * * *",
        "Europe/Vienna",
        "2027-10-30T12:00:00Z",
        "2027-11-01T12:00:00Z",
        &["2027-10-31T00:30:00Z", "2027-11-01T01:30:00Z"],
    ),
    (
        "0 3 * * *",
        "Europe/Bucharest",
        "2027-03-27T12:00:00Z",
        "2027-03-29T12:00:00Z",
        &["2027-03-28T01:00:00Z", "2027-03-29T00:00:00Z"],
    ),
    (
        "0 3 * * *",
        "Europe/Bucharest",
        "2027-10-30T12:00:00Z",
        "2027-11-01T12:00:00Z",
        &["2027-10-31T00:00:00Z", "2027-11-01T01:00:00Z"],
    ),
    // Lord Howe jumps by half an hour. 2027-10-03: 02:00 is 02:30; 2027-04-04: 02:00 is 01:30.
    (
        "15 2 * * *",
        "Australia/Lord_Howe",
        "2027-10-02T00:00:00Z",
        "2027-10-04T00:00:00Z",
        &["2027-10-02T15:30:00Z", "2027-10-03T15:15:00Z"],
    ),
    (
        "45 1 * * *",
        "Australia/Lord_Howe",
        "2027-04-03T00:00:00Z",
        "2027-04-05T00:00:00Z",
        &["2027-04-03T14:45:00Z", "2027-04-04T15:15:00Z"],
    ),
    (
        "0 * * * *",
        "Australia/Lord_Howe",
        "2027-10-02T14:00:00Z",
        "2027-10-02T18:00:00Z",
        &[
            "2027-10-02T14:30:00Z",
            "2027-10-02T16:00:00Z",
            "2027-10-02T17:00:00Z",
            "2027-10-02T18:00:00Z",
        ],
    ),
    // Apia left out the whole of 2011-12-30.
    (
        "0 12 * * *",
        "Pacific/Apia",
        "2011-12-29T00:00:00Z",
        "2012-01-01T00:00:00Z",
        &[
            "2011-12-29T22:00:00Z",
            "2011-12-30T22:00:00Z",
            "2011-12-31T22:00:00Z",
        ],
    ),
    (
        "@daily",
        "Pacific/Apia",
        "2011-12-29T00:00:00Z",
        "2012-01-01T00:00:00Z",
        &[
            "2011-12-29T10:00:00Z",
            "2011-12-30T10:00:00Z",
            "2011-12-31T10:00:00Z",
        ],
    ),
    // Santiago jumps at midnight. 2027-09-05: 00:00 is 01:00; 2027-04-04: 00:00 is 23:00 of the day before.
    (
        "@daily",
        "America/Santiago",
        "2027-09-04T12:00:00Z",
        "2027-09-06T12:00:00Z",
        &["2027-09-05T04:00:00Z", "2027-09-06T03:00:00Z"],
    ),
    (
        "30 23 * * *",
        "America/Santiago",
        "2027-04-03T12:00:00Z",
        "2027-04-05T12:00:00Z",
        &["2027-04-04T02:30:00Z", "2027-04-05T03:30:00Z"],
    ),
    (
        "30 0 * * 0",
        "America/Santiago",
        "2027-09-04T12:00:00Z",
        "2027-09-12T12:00:00Z",
        &["2027-09-05T04:00:00Z", "2027-09-12T03:30:00Z"],
    ),
];

#[test]
fn where_clocks_jump_every_slot_comes_once() {
    for (expression, zone, after, until, expected) in TABLE {
        let timing = Timing::cron(expression, zone).unwrap();
        assert_eq!(
            slots(&timing, after, until),
            *expected,
            "{expression} in {zone} after {after}"
        );
    }
}

#[test]
fn expressions_of_five_and_six_fields_names_and_nicknames_are_read() {
    for (expression, next) in [
        ("5 4 * * *", "2027-01-01T04:05:00Z"),
        ("30 5 4 * * *", "2027-01-01T04:05:30Z"),
        ("0 0 1 JAN,jul *", "2027-07-01T00:00:00Z"),
        ("0 9 * * mon-fri", "2027-01-01T09:00:00Z"),
        ("0 0 * * 7", "2027-01-03T00:00:00Z"),
        ("@hourly", "2027-01-01T01:00:00Z"),
        ("@daily", "2027-01-02T00:00:00Z"),
        ("@weekly", "2027-01-03T00:00:00Z"),
        ("@monthly", "2027-02-01T00:00:00Z"),
        ("@yearly", "2028-01-01T00:00:00Z"),
        ("0 0 L * *", "2027-01-31T00:00:00Z"),
        ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
        ("  0   12 * *  * ", "2027-01-01T12:00:00Z"),
    ] {
        let timing = Timing::cron(expression, "UTC").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            timing
                .next_after(ms("2027-01-01T00:00:00Z"))
                .map(shown)
                .as_deref(),
            Some(next),
            "{expression}"
        );
    }
}

#[test]
fn what_cannot_be_or_never_comes_is_refused_quickly_with_its_value() {
    let long = "0,".repeat(5_000) + " * * * *";
    let began = std::time::Instant::now();
    for expression in [
        "",
        " ",
        "*",
        "* * * *",
        "*/0 * * * *",
        "60 * * * *",
        "* 24 * * *",
        "0 0 0 * *",
        "0 0 30 2 *",
        "0 0 31 4,6,9,11 *",
        "0 0 * 13 *",
        "0 0 * * 8",
        "0 0 1 1 * 99999",
        "0 0 0 1 1 * 2027",
        "-1 * * * *",
        "5-1 * * * *",
        "@reboot",
        "@never",
        "a b c d e",
        "* * * * * * * *",
        "0 0 * * *\0",
        "🦀 * * * *",
        "99999999999999999999 * * * *",
        "1/99999999999 * * * *",
        &long,
    ] {
        let Err(Error::Setting { name, value, .. }) = Timing::cron(expression, "UTC") else {
            panic!("{expression:?} was accepted");
        };
        let shown: String = expression.chars().take(64).collect();
        assert_eq!(
            (name.as_str(), value),
            ("cron", shown.escape_debug().to_string())
        );
    }
    // Not a measurement: a search without bounds would go on for minutes.
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    for zone in ["", "Mars/Olympus", "../../etc/passwd", "+25:00"] {
        assert!(
            matches!(Timing::cron("@daily", zone), Err(Error::Setting { name, .. }) if name == "zone"),
            "{zone}"
        );
    }
    for every in [
        Duration::ZERO,
        Duration::from_millis(999),
        Duration::from_secs(400 * 24 * 3600),
        Duration::from_micros(1_000_001),
    ] {
        assert!(
            matches!(Timing::every(every), Err(Error::Setting { name, .. }) if name == "every"),
            "{every:?}"
        );
    }
}

#[test]
fn an_interval_stays_in_its_slots_whenever_it_is_looked_at() {
    let timing = Timing::every(Duration::from_secs(10)).unwrap();
    for (after, next) in [
        ("2027-01-01T00:00:00Z", "2027-01-01T00:00:10Z"),
        ("2027-01-01T00:00:03.217Z", "2027-01-01T00:00:10Z"),
        ("2027-01-01T00:00:09.999Z", "2027-01-01T00:00:10Z"),
        ("1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z"),
    ] {
        assert_eq!(
            timing.next_after(ms(after)).map(shown).as_deref(),
            Some(next),
            "{after}"
        );
    }
}

#[test]
fn the_latest_slots_are_those_at_the_end_of_all() {
    let until = ms("2027-06-01T12:00:00Z");
    let seconds = Timing::every(Duration::from_secs(7)).unwrap();
    let crons = [
        "* * * * * *",
        "*/5 * * * *",
        "0 3 * * *",
        "* * 3 * * *",
        "0 0 1 * *",
        "0 0 29 2 *",
    ];
    let timings = crons.map(|cron| Timing::cron(cron, "Europe/Vienna").unwrap());
    for timing in timings.iter().chain([&seconds]) {
        for begin in [
            "2027-06-01T11:59:50Z",
            "2027-05-31T22:00:00Z",
            "2027-05-02T00:00:00Z",
        ] {
            let Some(from) = timing.next_after(ms(begin)).filter(|from| *from <= until) else {
                continue;
            };
            // Every second of a month would take a while, and show no more than every second of a day.
            let is_dense = timing
                .next_after(from)
                .is_some_and(|next| next - from < 60_000);
            if is_dense && begin == "2027-05-02T00:00:00Z" {
                continue;
            }
            let mut all = vec![from];
            while let Some(slot) = timing
                .next_after(all[all.len() - 1])
                .filter(|slot| *slot <= until)
            {
                all.push(slot);
            }
            for count in [1, 3, 100] {
                let expected = &all[all.len().saturating_sub(count)..];
                assert_eq!(
                    timing.latest(count, from, until),
                    expected,
                    "{timing:?} from {begin}"
                );
            }
        }
    }
}

#[test]
fn years_of_missed_seconds_cost_no_more_than_an_hour() {
    let timing = Timing::cron("* * * * * *", "America/New_York").unwrap();
    let until = ms("2037-01-01T00:00:00Z");
    let latest = timing.latest(2, ms("2017-01-01T00:00:00Z"), until);
    assert_eq!(latest, [until - 1000, until]);
}
