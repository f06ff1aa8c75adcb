//! The slots of groups, counted anew while the queue is at work.
//!
//! The audit of the lanes and of what is scheduled tells which jobs have a slot. Where their number is not the one that is stored, jobs
//! may have moved meanwhile; so those groups are walked over once more, and this time each job is remembered by its place. Places
//! are looked at again, together with whatever has come since, by one script: what it finds is right at that moment.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::queue::{FIRST_STEP, QueueAudit, next_limit};
use crate::broker::doctor::{Part, SlotHolder};
use crate::error::Result;
use crate::inspect::PATIENCE;
use crate::inspect::read::{list, of};
use crate::keys::Lane;
use crate::redis::reply::{number_of, text_of};

/// Walks until a group is given up on, because its jobs are retried all the time.
const WALKS: usize = 5;
/// Jobs that one step looks at: 2 µs of Redis each.
const HOLDERS: usize = 1_000;
/// Entries that may come to the lanes between two steps.
const COME: usize = 500;
/// Attempts to catch up with what comes.
const CHASES: usize = 50;
/// Groups whose numbers are asked for in one step.
const NAMES: usize = 200;

/// What a walk has found.
#[derive(Default)]
struct Found {
    holders: BTreeMap<String, BTreeSet<SlotHolder>>,
    /// The last entry that was seen on each lane.
    tails: Vec<String>,
    /// How many things one step may look at.
    limit: usize,
}

impl QueueAudit<'_> {
    /// Compares the numbers that are stored with the jobs that were seen, and counts anew where they differ.
    pub(super) async fn recount(&mut self, watch: &mut impl FnMut(u64)) -> Result<()> {
        let mut suspects = self.suspects().await?;
        for _ in 0..WALKS {
            if suspects.is_empty() {
                return Ok(());
            }
            let kept = self.kept().await?;
            let mut found = Found {
                holders: suspects
                    .iter()
                    .map(|group| (group.clone(), BTreeSet::new()))
                    .collect(),
                tails: vec!["0-0".to_owned(); Lane::ALL.len()],
                limit: FIRST_STEP,
            };
            self.walk(Part::Kept, &mut found, watch).await?;
            self.walk_lanes(&mut found, watch).await?;
            suspects = self.judge(kept, found, watch).await?;
        }
        for group in suspects {
            let finding = self.find("group-slots-unknown", &group);
            finding.what = format!("{} groups could not be counted", finding.count);
        }
        Ok(())
    }

    /// Groups for which not as many jobs were seen as are stored.
    async fn suspects(&self) -> Result<BTreeSet<String>> {
        let mut unseen: HashMap<&str, u64> = self
            .slots
            .iter()
            .map(|(group, count)| (group.as_str(), *count))
            .collect();
        let mut suspects = BTreeSet::new();
        let mut cursor = "0".to_owned();
        loop {
            let args = [
                of(&self.inspector.broker.keys.groups),
                cursor.as_str().into(),
            ];
            let page = [
                args.to_vec(),
                vec!["COUNT".into(), NAMES.to_string().into()],
            ]
            .concat();
            let page = list(self.inspector.ask("HSCAN", page).await?);
            let fields = page.get(1).cloned().map(list).unwrap_or_default();
            for pair in fields.chunks_exact(2) {
                let (Some(group), told) = (text_of(&pair[0]), text_of(&pair[1])) else {
                    continue;
                };
                let seen = unseen
                    .remove(group)
                    .or_else(|| self.slots.get(group).copied());
                if told.and_then(|told| told.parse().ok()) != Some(seen.unwrap_or_default()) {
                    suspects.insert(group.to_owned());
                }
            }
            match page.first().and_then(text_of) {
                Some(next) if next != "0" => cursor = next.to_owned(),
                _ => break,
            }
        }
        suspects.extend(unseen.into_keys().map(str::to_owned));
        Ok(suspects)
    }

    /// Where groups keep their order, how many jobs have been retried and snoozed: such a job waits with its slot.
    async fn kept(&self) -> Result<Option<u64>> {
        let keys = &self.inspector.broker.keys;
        let order = vec![of(&keys.limits), "group_order".into()];
        let order = self.inspector.ask("HGET", order).await?;
        let counters = vec![of(&keys.stats), "retried".into(), "snoozed".into()];
        let counters = list(self.inspector.ask("HMGET", counters).await?);
        let count = counters
            .iter()
            .filter_map(number_of)
            .map(i64::unsigned_abs)
            .sum();
        Ok(Some(count).filter(|_| text_of(&order) == Some("block")))
    }

    /// Goes to the end of every lane, from where it was left.
    async fn walk_lanes(&self, found: &mut Found, watch: &mut impl FnMut(u64)) -> Result<()> {
        for lane in Lane::ALL {
            self.walk(Part::Slots(lane), found, watch).await?;
        }
        Ok(())
    }

    async fn walk(&self, part: Part, found: &mut Found, watch: &mut impl FnMut(u64)) -> Result<()> {
        let lane = match part {
            Part::Slots(lane) => Some(lane),
            _ => None,
        };
        let mut cursor = lane.map(|lane| found.tails[lane.index()].clone());
        loop {
            let from = cursor.as_deref().filter(|cursor| *cursor != "0-0");
            let (broker, limit) = (&self.inspector.broker, found.limit);
            let step = broker.audit(part, from, limit, PATIENCE).await?;
            watch(step.looked);
            if step.looked > 0 {
                found.limit = next_limit(found.limit, step.looked, step.bytes);
            }
            for (group, id) in step.slots {
                if let Some(holders) = found.holders.get_mut(&group) {
                    holders.insert((lane, id));
                }
            }
            // The last entry of a lane is told also at its end.
            let at_end = lane.is_some() && step.looked < limit as u64;
            if let (Some(lane), Some(last)) = (lane, &step.cursor) {
                found.tails[lane.index()].clone_from(last);
            }
            if at_end || step.cursor.is_none() {
                return Ok(());
            }
            cursor = step.cursor;
        }
    }

    /// Looks at everything that was found once more, some groups in each step. Returns those that are in doubt.
    async fn judge(
        &mut self,
        kept: Option<u64>,
        mut found: Found,
        watch: &mut impl FnMut(u64),
    ) -> Result<BTreeSet<String>> {
        let mut in_doubt = BTreeSet::new();
        let mut chases = 0;
        while !found.holders.is_empty() {
            let groups = found.next_groups();
            let holders = groups.iter().map(|group| &found.holders[group]);
            let holders: Vec<_> = groups.iter().zip(holders).collect();
            if holders[0].1.len() > HOLDERS {
                in_doubt.extend(groups.iter().cloned());
                found.holders.remove(&groups[0]);
                continue;
            }
            let (broker, come) = (&self.inspector.broker, COME.min(found.limit * 10));
            let judged = broker
                .recount(kept, self.repair, come, &found.tails, &holders, PATIENCE)
                .await?;
            let Some(judged) = judged else {
                chases += 1;
                if chases > CHASES {
                    in_doubt.extend(found.holders.into_keys());
                    return Ok(in_doubt);
                }
                self.walk_lanes(&mut found, watch).await?;
                continue;
            };
            for (group, judged) in groups.into_iter().zip(judged) {
                found.holders.remove(&group);
                match judged.counted {
                    None => drop(in_doubt.insert(group)),
                    Some(counted) => self.compare(&group, judged.told.as_deref(), counted),
                }
            }
        }
        Ok(in_doubt)
    }

    fn compare(&mut self, group: &str, told: Option<&str>, counted: u64) {
        if told.unwrap_or("0").parse() == Ok(counted) {
            return;
        }
        if !self.repair {
            // Whether it has room cannot be told by this number.
            let stuck = (
                "stuck-group".to_owned(),
                Part::Waiting.lane(),
                group.to_owned(),
            );
            self.seen.insert(stuck);
        }
        let repaired = u64::from(self.repair);
        let finding = self.find("group-slots", group);
        finding.repaired += repaired;
        finding.what = format!(
            "{} of them; {group}: {} stored, {counted} taken",
            finding.count,
            told.unwrap_or("none")
        );
    }
}

impl Found {
    /// As many groups as one step may look at, one at least.
    fn next_groups(&self) -> Vec<String> {
        let mut room = HOLDERS.min(self.limit * 10);
        let mut groups = Vec::new();
        for (group, holders) in &self.holders {
            if !groups.is_empty() && holders.len() + 1 > room {
                break;
            }
            room = room.saturating_sub(holders.len() + 1);
            groups.push(group.clone());
        }
        groups
    }
}
