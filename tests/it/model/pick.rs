//! What the small numbers of an operation pick out of the state they meet.

use millstream::JobId;
use millstream::broker::Lane;

use super::operation::{Pick, Which};
use super::run::World;

impl World<'_> {
    pub(super) fn live(&self) -> Vec<usize> {
        let all = 0..self.deliveries.len();
        all.filter(|at| self.model.is_live(*at)).collect()
    }

    pub(super) fn delivery(&self, pick: Pick) -> Option<usize> {
        let (among, nth) = match pick {
            Pick::Live(nth) => (self.live(), nth),
            Pick::Ever(nth) => ((0..self.deliveries.len()).collect(), nth),
        };
        Some(*among.get(usize::from(nth).checked_rem(among.len())?)?)
    }

    /// The picked deliveries, each once.
    pub(super) fn picked(&self, picks: &[Pick]) -> Vec<usize> {
        let mut picked = Vec::new();
        for delivery in picks.iter().filter_map(|pick| self.delivery(*pick)) {
            if !picked.contains(&delivery) {
                picked.push(delivery);
            }
        }
        picked
    }

    /// The same, lane by lane.
    pub(super) fn by_lane(&self, picks: &[Pick]) -> Vec<(Lane, Vec<usize>)> {
        let picked = self.picked(picks);
        let of = |lane| {
            picked
                .iter()
                .copied()
                .filter(move |at| self.deliveries[*at].lane == lane)
        };
        let lanes = Lane::ALL.map(|lane| (lane, of(lane).collect::<Vec<_>>()));
        lanes
            .into_iter()
            .filter(|(_, of_lane)| !of_lane.is_empty())
            .collect()
    }

    pub(super) fn job(&self, which: Which) -> Option<usize> {
        let (among, nth): (Vec<usize>, u8) = match which {
            Which::In(state, nth) => {
                let jobs = self.model.jobs.iter().enumerate();
                let jobs = jobs.filter(|(_, job)| job.state == Some(state));
                (jobs.map(|(number, _)| number).collect(), nth)
            }
            Which::Any(nth) => ((0..self.model.jobs.len()).collect(), nth),
        };
        Some(*among.get(usize::from(nth).checked_rem(among.len())?)?)
    }

    pub(super) fn jobs(&self, which: &[Which]) -> Vec<usize> {
        which.iter().filter_map(|which| self.job(*which)).collect()
    }

    /// The jobs' ids, and one that no job has.
    pub(super) fn ids(&self, jobs: &[usize]) -> Vec<JobId> {
        let ids = jobs.iter().map(|job| self.id(Some(*job)));
        ids.chain([self.id(None)]).collect()
    }

    /// The job's id, or one that no job has.
    pub(super) fn id(&self, job: Option<usize>) -> JobId {
        job.map_or_else(|| "nobody".into(), |job| self.model.jobs[job].id.clone())
    }
}
