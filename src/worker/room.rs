//! How many jobs a worker may claim: what its load leaves room for, and how a read divides that among the lanes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::keys::Lane;
use crate::redis::reader::RawEntry;

/// Finished but unconfirmed jobs beyond which nothing more is claimed: then Redis takes no settlements.
const UNSETTLED_MAX: usize = 10_000;

/// How many jobs a worker has in hand, and how many it may have.
#[derive(Debug)]
pub(crate) struct Load {
    /// Delivered, waiting for a free slot.
    pub(crate) buffered: AtomicUsize,
    pub(crate) running: AtomicUsize,
    pub(crate) unsettled: Arc<AtomicUsize>,
    /// Something became less.
    pub(crate) eased: Notify,
    pub(crate) concurrency: usize,
    pub(crate) prefetch: usize,
}

impl Load {
    /// Jobs that may be claimed now. While slots are served from the buffer, the buffer is half emptied first, so that a
    /// busy worker reads in batches.
    pub(crate) fn room(&self) -> usize {
        let (buffered, running) = (
            self.buffered.load(Ordering::Acquire),
            self.running.load(Ordering::Acquire),
        );
        if buffered > self.prefetch / 2 || self.unsettled.load(Ordering::Acquire) > UNSETTLED_MAX {
            return 0;
        }
        (self.concurrency + self.prefetch).saturating_sub(buffered + running)
    }

    /// As many of them as one read asks for where another may follow at once: half of what there is room for in all, so that one half is
    /// on its way while the other is worked on.
    pub(super) fn half(&self) -> usize {
        (self.concurrency + self.prefetch).div_ceil(2)
    }

    /// Jobs that may be claimed now, beside `coming` that are here and not yet counted: less than a quarter of a read is not worth one.
    pub(super) fn room_beside(&self, coming: usize) -> usize {
        let in_hand = self.buffered.load(Ordering::Acquire) + self.running.load(Ordering::Acquire);
        let room = (self.concurrency + self.prefetch).saturating_sub(in_hand + coming);
        let is_settling = self.unsettled.load(Ordering::Acquire) <= UNSETTLED_MAX;
        match is_settling && room * 4 >= self.half() {
            true => room.min(self.half()),
            false => 0,
        }
    }

    /// Jobs that may be claimed now and start at once.
    pub(super) fn room_now(&self) -> usize {
        let in_hand = self.buffered.load(Ordering::Acquire) + self.running.load(Ordering::Acquire);
        self.room().min(self.concurrency.saturating_sub(in_hand))
    }
}

/// What the last read says about the next.
///
/// Redis counts per stream, so a read that waits for several lanes divides its room evenly among them. When jobs flow, that
/// would halve every batch for a lane that hardly ever has any: so while [`Lane::Ready`] gives all that it is asked for, the
/// lanes are read with a command each, one written behind the other, and `Next` gets a single place for as long as it has no more.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// `Ready` gave all that it was asked for: there is more.
    ready: bool,
    /// So did `Next`.
    next: bool,
}

impl Flow {
    /// How many places of `room`, which is 2 at least, each of [`Lane::READ`] gets when nobody waits; `None`: wait.
    pub(super) fn shares(&self, room: usize) -> Option<[usize; 2]> {
        if !self.ready {
            return None;
        }
        let next = if self.next { room / 2 } else { 1 };
        Some([next, room - next])
    }

    /// Takes in what a read of [`Lane::READ`] with these `shares` brought.
    pub(super) fn saw(&mut self, entries: &[RawEntry], shares: [usize; 2]) {
        let of = |lane: Lane| {
            let of_lane = entries.iter().filter(|entry| entry.stream == lane.index());
            of_lane.count()
        };
        self.counted(Lane::READ.map(of), shares);
    }

    /// The same, of counts alone.
    pub(super) fn counted(&mut self, [next, ready]: [usize; 2], shares: [usize; 2]) {
        self.next = next >= shares[0];
        self.ready = ready >= shares[1];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::reader::Fields;

    fn entries(next: usize, ready: usize) -> Vec<RawEntry> {
        let of = |lane: Lane, count: usize| {
            (0..count).map(move |_| RawEntry {
                stream: lane.index(),
                id: "1-0".into(),
                fields: Fields::Apart(Vec::new()),
            })
        };
        of(Lane::Next, next).chain(of(Lane::Ready, ready)).collect()
    }

    #[test]
    fn a_lane_that_flows_gets_the_room_that_the_other_does_not_use() {
        let mut flow = Flow::default();
        assert_eq!(flow.shares(100), None, "nothing is known: wait");
        flow.saw(&entries(0, 50), [50, 50]);
        assert_eq!(flow.shares(100), Some([1, 99]));
        flow.saw(&entries(1, 99), [1, 99]);
        assert_eq!(flow.shares(100), Some([50, 50]), "more was handed back");
        flow.saw(&entries(20, 50), [50, 50]);
        assert_eq!(flow.shares(100), Some([1, 99]));
        flow.saw(&entries(0, 98), [1, 99]);
        assert_eq!(flow.shares(100), None, "it has run dry: wait");
    }

    #[test]
    fn the_shares_are_never_more_than_the_room() {
        for (next, ready) in [(false, true), (true, true)] {
            for room in 2..300 {
                let [a, b] = Flow { ready, next }.shares(room).expect("it flows");
                assert!(a >= 1 && b >= 1 && a + b == room, "{a} and {b} of {room}");
            }
        }
    }
}
