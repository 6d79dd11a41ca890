//! What metrics say of now, brought up to date when they are asked for. Reads what is shared; asks no actor, so that it is
//! told also while one is stuck.

use std::collections::HashMap;
use std::sync::Arc;

use super::handle::Handle;
use super::mailbox::Vitals;
use crate::metrics::actors::{self as metric, ActorKind, ActorState};
use crate::metrics::claims as claim_metric;
use crate::metrics::lanes::{self as lane_metric, LaneLevel, QueueLevel};
use crate::model::ids::Lane;
use crate::model::time::Awake;

impl Handle {
    /// Takes every level anew. Blocks for as long as a few locks are held.
    pub fn take_levels(&self) {
        self.take_actors();
        self.take_work();
    }

    fn take_actors(&self) {
        let context = self.context();
        let mut seen: HashMap<(&'static str, Arc<str>), Vitals> =
            context.vitals().into_iter().map(|vitals| ((vitals.kind.as_str(), vitals.name.clone()), vitals)).collect();
        let root = seen.remove(&(ActorKind::Root.as_str(), context.root.vitals().name));
        let children = context.supervised.all().into_iter().map(|(name, status)| {
            let vitals = seen.get(&(status.kind.as_str(), Arc::from(name)));
            let state = match status.state {
                _ if status.is_down() => ActorState::Parked,
                "running" => doing(vitals),
                _ => ActorState::Starting,
            };
            (status.kind, state, vitals.map_or(0, |vitals| vitals.waiting))
        });
        let root = root.iter().map(|root| (ActorKind::Root, doing(Some(root)), root.waiting));
        metric::actors_are(children.chain(root));
    }

    fn take_work(&self) {
        let context = self.context();
        let (queue, now) = (context.readiness.queue(), context.clock.moment());
        let seconds = |since: Awake| now.wall.plus_ms(-now.awake.since_ms(since)).as_seconds();
        let level = |lane: Option<&Lane>| {
            let (depth, since) = queue.lanes.get(&lane.cloned())?;
            Some(QueueLevel { depth: *depth, oldest_seconds: seconds(*since) })
        };
        let lanes = self.lanes();
        let waited_for = queue.lanes.keys().flatten().filter(|lane| lanes.iter().all(|known| known.lane != **lane));
        let rules = &context.settings.rules.wip;
        let unknown = waited_for.map(|lane| {
            (lane, LaneLevel { in_use: 0, capacity: rules.of(lane), open: true, queue: level(Some(lane)) })
        });
        let known = lanes.iter().map(|lane| {
            let open = lane.state == "open";
            let queue = level(Some(&lane.lane));
            (&lane.lane, LaneLevel { in_use: lane.wip, capacity: lane.wip_limit, open, queue })
        });
        lane_metric::lanes_are(known.chain(unknown).map(|(lane, level)| (lane.as_str(), level)), level(None).as_ref());
        claim_metric::breakers_are(context.board.lanes().iter().map(|lane| &lane.gate));
        let oldest = queue.lanes.values().map(|(_, since)| *since).min();
        claim_metric::work_is(&queue.stages, oldest.map(seconds));
    }
}

fn doing(vitals: Option<&Vitals>) -> ActorState {
    match vitals {
        Some(vitals) if vitals.handling.is_some() => ActorState::Busy,
        _ => ActorState::Idle,
    }
}
