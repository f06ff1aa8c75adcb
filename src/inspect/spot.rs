//! Where a listing stands: the places that it goes through, and the cursor that people copy.

use std::fmt;
use std::str::FromStr;

use super::page::Row;
use crate::broker::EntryId;
use crate::job::state::State;
use crate::keys::Lane;

/// Where a listing goes on: in which place, and behind which job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    Lane {
        state: State,
        lane: usize,
        after: Option<EntryId>,
    },
    Parked {
        state: State,
        after: Option<Row>,
    },
    /// Behind this member of the zset.
    Held {
        after: Option<String>,
    },
}

/// Between the group, the turn and the id of a held job.
pub(super) const HELD_SEPARATOR: char = '\u{1f}';

impl Spot {
    /// Every place, from its beginning, in the order of a listing.
    fn places() -> Vec<Self> {
        let mut places = Vec::new();
        for state in [State::Running, State::Ready] {
            for lane in 0..Lane::ALL.len() {
                let after = None;
                places.push(Self::Lane { state, lane, after });
            }
        }
        places.push(Self::Held { after: None });
        for state in [State::Scheduled, State::Dead] {
            places.push(Self::Parked { state, after: None });
        }
        places
    }

    fn state(&self) -> State {
        match self {
            Self::Lane { state, .. } | Self::Parked { state, .. } => *state,
            Self::Held { .. } => State::Held,
        }
    }

    fn start(&self) -> Self {
        match self {
            Self::Lane { state, lane, .. } => Self::Lane {
                state: *state,
                lane: *lane,
                after: None,
            },
            Self::Parked { state, .. } => Self::Parked {
                state: *state,
                after: None,
            },
            Self::Held { .. } => Self::Held { after: None },
        }
    }

    /// The first place of the state; of every state for `None`. States without a listing have none.
    pub(super) fn first(state: Option<State>) -> Option<Self> {
        let mut places = Self::places().into_iter();
        places.find(|place| state.is_none_or(|state| place.state() == state))
    }

    /// The place after this one, of the state if one is given.
    pub(super) fn next(&self, state: Option<State>) -> Option<Self> {
        let start = self.start();
        let places = Self::places().into_iter();
        let mut behind = places.skip_while(|place| *place != start).skip(1);
        behind.find(|place| state.is_none_or(|state| place.state() == state))
    }
}

/// `ready.1.1700000000000-0`, `dead.1700000000000.<job id>`, `scheduled.1700000000000_125.<job id>`, `held.<turn>.<job id>.<group>`; without the last parts, the beginning of the place.
impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.state())?;
        match self {
            Self::Lane { lane, after, .. } => {
                write!(f, ".{lane}")?;
                after.map_or(Ok(()), |entry| write!(f, ".{entry}"))
            }
            Self::Parked { after, .. } => match after {
                Some((score, id)) => write!(f, ".{}.{id}", score.to_string().replace('.', "_")),
                None => Ok(()),
            },
            Self::Held { after } => {
                let parts = |member: &String| {
                    let mut parts = member.splitn(3, HELD_SEPARATOR).map(str::to_owned);
                    Some((parts.next()?, parts.next()?, parts.next()?))
                };
                // The group comes last: it may have dots. A job that is held from the beginning on has one in its id.
                match after.as_ref().and_then(parts) {
                    Some((group, turn, id)) => {
                        write!(f, ".{turn}.{}.{group}", id.replace('.', "_"))
                    }
                    None => Ok(()),
                }
            }
        }
    }
}

impl FromStr for Spot {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let mut parts = text.splitn(3, '.');
        let state = parts.next().ok_or(())?;
        let place = Self::places()
            .into_iter()
            .find(|place| place.state().name() == state);
        match (place.ok_or(())?, parts.next(), parts.next()) {
            (Self::Lane { state, .. }, Some(lane), after) => {
                let lane: usize = lane.parse().map_err(drop)?;
                let after = after.map(str::parse).transpose()?;
                let known = lane < Lane::ALL.len();
                known.then_some(Self::Lane { state, lane, after }).ok_or(())
            }
            (Self::Parked { state, .. }, None, None) => Ok(Self::Parked { state, after: None }),
            (Self::Parked { state, .. }, Some(score), Some(id)) => {
                let after = Some((score.replace('_', ".").parse()?, id.into()));
                Ok(Self::Parked { state, after })
            }
            (Self::Held { .. }, None, None) => Ok(Self::Held { after: None }),
            (Self::Held { .. }, Some(turn), Some(rest)) => {
                let (id, group) = rest.split_once('.').ok_or(())?;
                let parts = [group, turn, &id.replace('_', ".")];
                let after = Some(parts.join(HELD_SEPARATOR.encode_utf8(&mut [0; 4])));
                Ok(Self::Held { after })
            }
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_nothing_else_is_one() {
        let entry = EntryId { ms: 17, seq: 3 };
        let mut spots = Spot::places();
        spots.push(Spot::Lane {
            state: State::Ready,
            lane: 1,
            after: Some(entry),
        });
        for (state, score) in [
            (State::Dead, "1700000000017"),
            (State::Scheduled, "1700000000017.125"),
        ] {
            let after = Some((score.parse().unwrap(), "0190.a-b".into()));
            spots.push(Spot::Parked { state, after });
        }
        spots.push(Spot::Held {
            after: Some("shop.example\u{1f}50000000000000017\u{1f}1764200000.17".into()),
        });
        for spot in spots {
            assert_eq!(spot.to_string().parse(), Ok(spot.clone()), "{spot}");
        }
        for bad in [
            "",
            "x",
            "ready",
            "ready.9",
            "ready.0.x",
            "dead.x.1-0",
            "dead.1",
            "held.x",
        ] {
            assert_eq!(bad.parse::<Spot>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn a_listing_goes_from_place_to_place_and_stays_within_a_state() {
        let mut spot = Spot::first(None);
        let mut passed = Vec::new();
        while let Some(place) = spot {
            passed.push(place.clone());
            spot = place.next(None);
        }
        assert_eq!(passed, Spot::places());
        let dead = Spot::first(Some(State::Dead)).unwrap();
        assert_eq!(
            (dead.state(), dead.next(Some(State::Dead))),
            (State::Dead, None)
        );
        assert_eq!(Spot::first(Some(State::Cancelled)), None);
    }
}
