//! The actions of recovery, planned from the records and the kernel's inventory. Pure.

use std::collections::{BTreeMap, BTreeSet};

use host::{ContainerId, PodId};
use runtime::ContainerState;

use crate::state::record::{ContainerPhase, PodPhase};

#[derive(Debug, Clone, Default)]
pub(crate) struct Records {
    pub(crate) pods: BTreeMap<PodId, PodPhase>,
    /// With their pods.
    pub(crate) containers: BTreeMap<ContainerId, (PodId, ContainerPhase)>,
    pub(crate) spares: BTreeSet<PodId>,
    /// Ids of pods and containers whose records cannot be read. All that belongs to them is left alone.
    pub(crate) unreadable: BTreeSet<String>,
}

impl Records {
    /// Whether an object is named by the id of a record: a part of a pod or container, which goes with it.
    pub(crate) fn own(&self, object: &str) -> bool {
        self.pods.keys().any(|id| object.ends_with(id.short()))
            || self.containers.keys().any(|id| object.ends_with(id.short()))
    }
}

/// The kernel's inventory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inventory {
    /// Pods of the runtime, complete or not.
    pub(crate) pods: BTreeSet<PodId>,
    /// The complete ones.
    pub(crate) whole: BTreeSet<PodId>,
    pub(crate) spares: BTreeSet<PodId>,
    pub(crate) containers: BTreeMap<ContainerId, (PodId, ContainerState)>,
    /// Pods and spares that are attached or prepared.
    pub(crate) networks: BTreeSet<PodId>,
    pub(crate) roots: BTreeSet<ContainerId>,
}

/// One step of recovery. Objects whose record agrees with the kernel need none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// No client has its id, or it has no record: remove it with its record.
    RemovePod(PodId),
    /// Its tear-down was not finished, or the kernel still holds a part of it.
    StopPod(PodId),
    LosePod(PodId),
    /// The kernel has lost only its interface.
    AttachPod(PodId),
    /// No spare outlives its server.
    RemoveSpare(PodId),
    /// No client has its id, it has no record, or its removal was not finished.
    RemoveContainer(ContainerId),
    WatchContainer(ContainerId),
    /// The kernel is ahead of its record.
    AdoptContainer(ContainerId),
    LoseContainer(ContainerId),
    /// It runs, but its record says that it has ended, and clients were told so.
    KillContainer(ContainerId),
}

/// Compares the records with the inventory. Containers come before pods, so that those of a lost pod are recorded as lost and not
/// as stopped.
pub(crate) fn plan(records: &Records, inventory: &Inventory) -> Vec<Action> {
    let mut actions = Vec::new();
    for (id, (pod, phase)) in &records.containers {
        if records.unreadable.contains(pod.as_str()) {
            continue;
        }
        let held = inventory.containers.get(id).map(|(_, state)| state);
        if held.is_none()
            && *phase == ContainerPhase::Created
            && !inventory.pods.contains(pod)
            && records.pods.contains_key(pod)
        {
            // It went with its pod and was never started: it stays created, as without a restart.
            continue;
        }
        actions.extend(container(id, records.pods.contains_key(pod).then_some(phase), held));
    }
    let orphans: BTreeSet<_> = inventory.containers.keys().chain(&inventory.roots).collect();
    for id in orphans {
        let pod = inventory.containers.get(id).map(|(pod, _)| pod);
        let left_alone = records.unreadable.contains(id.as_str())
            || pod.is_some_and(|pod| records.unreadable.contains(pod.as_str()));
        if !left_alone && !records.containers.contains_key(id) {
            actions.push(Action::RemoveContainer(id.clone()));
        }
    }
    for (id, phase) in &records.pods {
        let (held, whole) = (inventory.pods.contains(id), inventory.whole.contains(id));
        actions.extend(pod(id, *phase, (held, whole), inventory.networks.contains(id)));
    }
    let spares: BTreeSet<_> = inventory.spares.union(&records.spares).collect();
    for id in inventory.pods.union(&inventory.networks) {
        let left_alone = records.unreadable.contains(id.as_str()) || spares.contains(id);
        if !left_alone && !records.pods.contains_key(id) {
            actions.push(Action::RemovePod(id.clone()));
        }
    }
    actions.extend(spares.into_iter().cloned().map(Action::RemoveSpare));
    actions
}

/// `phase` is None for a container whose pod has no record.
fn container(id: &ContainerId, phase: Option<&ContainerPhase>, held: Option<&ContainerState>) -> Option<Action> {
    use ContainerPhase as Phase;
    use ContainerState as State;
    let id = id.clone();
    match (phase, held) {
        (None | Some(Phase::Creating | Phase::Removing(_)), _) => Some(Action::RemoveContainer(id)),
        (Some(Phase::Created), Some(State::Created)) => None,
        (Some(Phase::Created), Some(State::Running(_) | State::Exited { .. })) => Some(Action::AdoptContainer(id)),
        (Some(Phase::Running { .. }), Some(State::Running(_))) => Some(Action::WatchContainer(id)),
        (Some(Phase::Running { .. }), Some(State::Exited { .. })) => Some(Action::AdoptContainer(id)),
        (Some(Phase::Created | Phase::Running { .. }), None) => Some(Action::LoseContainer(id)),
        (Some(Phase::Running { .. }), Some(State::Created)) => Some(Action::LoseContainer(id)),
        (Some(Phase::Exited(_)), Some(State::Running(_))) => Some(Action::KillContainer(id)),
        (Some(Phase::Exited(_)), Some(State::Created | State::Exited { .. }) | None) => None,
    }
}

/// The runtime holds a part of the pod (`held`) or all of it (`whole`).
fn pod(id: &PodId, phase: PodPhase, (held, whole): (bool, bool), in_network: bool) -> Option<Action> {
    let id = id.clone();
    match phase {
        PodPhase::Creating | PodPhase::Failed => Some(Action::RemovePod(id)),
        PodPhase::Ready if !whole => Some(Action::LosePod(id)),
        PodPhase::Ready => (!in_network).then_some(Action::AttachPod(id)),
        PodPhase::Stopping => Some(Action::StopPod(id)),
        PodPhase::Stopped => (held || in_network).then_some(Action::StopPod(id)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::SystemTime;

    use host::{ContainerId, PodId};
    use runtime::{ContainerState, Exit, Started};

    use super::{Action, Inventory, Records, plan};
    use crate::state::record::{ContainerPhase, Ended, PodPhase};

    fn pod_id() -> PodId {
        "a".repeat(64).parse().unwrap()
    }

    fn container_id() -> ContainerId {
        "c".repeat(64).parse().unwrap()
    }

    #[test]
    fn one_row_for_each_pair_of_a_pod() {
        use PodPhase::{Creating, Failed, Ready, Stopped, Stopping};
        let id = pod_id();
        let rows: [(Option<PodPhase>, bool, bool, Option<Action>); 24] = [
            (None, false, false, None),
            (None, true, false, Some(Action::RemovePod(id.clone()))),
            (None, false, true, Some(Action::RemovePod(id.clone()))),
            (None, true, true, Some(Action::RemovePod(id.clone()))),
            (Some(Creating), false, false, Some(Action::RemovePod(id.clone()))),
            (Some(Creating), true, false, Some(Action::RemovePod(id.clone()))),
            (Some(Creating), false, true, Some(Action::RemovePod(id.clone()))),
            (Some(Creating), true, true, Some(Action::RemovePod(id.clone()))),
            (Some(Ready), false, false, Some(Action::LosePod(id.clone()))),
            (Some(Ready), false, true, Some(Action::LosePod(id.clone()))),
            (Some(Ready), true, false, Some(Action::AttachPod(id.clone()))),
            (Some(Ready), true, true, None),
            (Some(Stopping), false, false, Some(Action::StopPod(id.clone()))),
            (Some(Stopping), true, false, Some(Action::StopPod(id.clone()))),
            (Some(Stopping), false, true, Some(Action::StopPod(id.clone()))),
            (Some(Stopping), true, true, Some(Action::StopPod(id.clone()))),
            (Some(Failed), false, false, Some(Action::RemovePod(id.clone()))),
            (Some(Failed), true, false, Some(Action::RemovePod(id.clone()))),
            (Some(Failed), false, true, Some(Action::RemovePod(id.clone()))),
            (Some(Failed), true, true, Some(Action::RemovePod(id.clone()))),
            (Some(Stopped), false, false, None),
            (Some(Stopped), true, false, Some(Action::StopPod(id.clone()))),
            (Some(Stopped), false, true, Some(Action::StopPod(id.clone()))),
            (Some(Stopped), true, true, Some(Action::StopPod(id.clone()))),
        ];
        for (phase, in_runtime, in_network, wanted) in rows {
            let records =
                Records { pods: phase.map(|phase| (id.clone(), phase)).into_iter().collect(), ..Records::default() };
            let held: BTreeSet<_> = in_runtime.then(|| id.clone()).into_iter().collect();
            let inventory = Inventory {
                pods: held.clone(),
                whole: held,
                networks: in_network.then(|| id.clone()).into_iter().collect(),
                ..Inventory::default()
            };
            assert_eq!(
                plan(&records, &inventory),
                Vec::from_iter(wanted.clone()),
                "{phase:?} {in_runtime} {in_network}"
            );
            // Of a pod that lost something, what is left goes as before, but it is not ready.
            let wanted = if phase == Some(Ready) { Some(Action::LosePod(id.clone())) } else { wanted };
            let inventory = Inventory { whole: BTreeSet::new(), ..inventory };
            assert_eq!(plan(&records, &inventory), Vec::from_iter(wanted), "{phase:?} {in_network}, not whole");
        }
    }

    #[test]
    fn one_row_for_each_pair_of_a_container() {
        let id = container_id();
        let started = Started { pid: 1, at: SystemTime::UNIX_EPOCH };
        let exit = Exit { at: SystemTime::UNIX_EPOCH, code: 0, out_of_memory: false, message: String::new() };
        let states = [
            None,
            Some(ContainerState::Created),
            Some(ContainerState::Running(started)),
            Some(ContainerState::Exited { started, exit }),
        ];
        let end = Ended { started_at: 0, finished_at: 0, code: 0, reason: String::new(), message: String::new() };
        let remove = || Some(Action::RemoveContainer(id.clone()));
        let adopt = || Some(Action::AdoptContainer(id.clone()));
        let lose = || Some(Action::LoseContainer(id.clone()));
        let rows = [
            (None, [None, remove(), remove(), remove()]),
            (Some(ContainerPhase::Creating), [remove(), remove(), remove(), remove()]),
            (Some(ContainerPhase::Created), [lose(), None, adopt(), adopt()]),
            (
                Some(ContainerPhase::Running { pid: 1, started_at: 0 }),
                [lose(), lose(), Some(Action::WatchContainer(id.clone())), adopt()],
            ),
            (Some(ContainerPhase::Exited(end.clone())), [None, None, Some(Action::KillContainer(id.clone())), None]),
            (Some(ContainerPhase::Removing(Some(end))), [remove(), remove(), remove(), remove()]),
            (Some(ContainerPhase::Removing(None)), [remove(), remove(), remove(), remove()]),
        ];
        for (phase, wanted) in rows {
            for (state, wanted) in states.iter().zip(wanted) {
                let record = phase.clone().map(|phase| (id.clone(), (pod_id(), phase)));
                let records = Records {
                    pods: BTreeMap::from([(pod_id(), PodPhase::Ready)]),
                    containers: record.into_iter().collect(),
                    ..Records::default()
                };
                let inventory = Inventory {
                    pods: BTreeSet::from([pod_id()]),
                    whole: BTreeSet::from([pod_id()]),
                    networks: BTreeSet::from([pod_id()]),
                    containers: state.clone().map(|state| (id.clone(), (pod_id(), state))).into_iter().collect(),
                    ..Inventory::default()
                };
                assert_eq!(plan(&records, &inventory), Vec::from_iter(wanted), "{phase:?} {state:?}");
                // Without its pod's record it goes whatever it is; with one that cannot be read it stays.
                let orphaned = Records { pods: BTreeMap::new(), ..records };
                let inventory = Inventory { pods: BTreeSet::new(), networks: BTreeSet::new(), ..inventory };
                let wanted = if phase.is_some() || state.is_some() { remove() } else { None };
                assert_eq!(plan(&orphaned, &inventory), Vec::from_iter(wanted), "{phase:?} {state:?} without its pod");
                let unreadable = BTreeSet::from([pod_id().to_string()]);
                assert_eq!(
                    plan(&Records { unreadable, ..orphaned }, &inventory),
                    [],
                    "{phase:?} {state:?}, its pod unread"
                );
            }
        }
    }

    #[test]
    fn after_a_reboot_nothing_is_ready_or_runs_and_nothing_is_removed() {
        let (pod, created, running) = (pod_id(), container_id(), "d".repeat(64).parse::<ContainerId>().unwrap());
        let records = Records {
            pods: BTreeMap::from([(pod.clone(), PodPhase::Ready)]),
            containers: BTreeMap::from([
                (created.clone(), (pod.clone(), ContainerPhase::Created)),
                (running.clone(), (pod.clone(), ContainerPhase::Running { pid: 1, started_at: 0 })),
            ]),
            ..Records::default()
        };
        // Roots are on a disk; all else is gone.
        let inventory = Inventory { roots: BTreeSet::from([created, running.clone()]), ..Inventory::default() };
        assert_eq!(plan(&records, &inventory), [Action::LoseContainer(running), Action::LosePod(pod)]);
    }

    #[test]
    fn what_belongs_to_a_record_that_cannot_be_read_is_left_alone() {
        let records = Records { unreadable: BTreeSet::from([pod_id().to_string()]), ..Records::default() };
        let mut inventory = Inventory {
            pods: BTreeSet::from([pod_id()]),
            networks: BTreeSet::from([pod_id()]),
            containers: BTreeMap::from([(container_id(), (pod_id(), ContainerState::Created))]),
            ..Inventory::default()
        };
        assert_eq!(plan(&records, &inventory), []);
        let records = Records { unreadable: BTreeSet::from([container_id().to_string()]), ..Records::default() };
        inventory = Inventory { roots: BTreeSet::from([container_id()]), ..Inventory::default() };
        assert_eq!(plan(&records, &inventory), []);
    }

    #[test]
    fn a_container_without_its_pod_and_a_root_without_its_container_go() {
        let records = Records {
            containers: BTreeMap::from([(container_id(), (pod_id(), ContainerPhase::Created))]),
            ..Records::default()
        };
        assert_eq!(plan(&records, &Inventory::default()), [Action::RemoveContainer(container_id())]);
        let inventory = Inventory { roots: BTreeSet::from([container_id()]), ..Inventory::default() };
        assert_eq!(plan(&Records::default(), &inventory), [Action::RemoveContainer(container_id())]);
    }

    #[test]
    fn a_container_that_was_never_started_stays_so_when_its_pod_is_stopped() {
        let records = Records {
            pods: BTreeMap::from([(pod_id(), PodPhase::Stopped)]),
            containers: BTreeMap::from([(container_id(), (pod_id(), ContainerPhase::Created))]),
            ..Records::default()
        };
        assert_eq!(plan(&records, &Inventory::default()), []);
    }

    #[test]
    fn spares_go_whether_recorded_or_only_found() {
        let other: PodId = "b".repeat(64).parse().unwrap();
        let records = Records { spares: BTreeSet::from([pod_id()]), ..Records::default() };
        let inventory = Inventory {
            spares: BTreeSet::from([other.clone()]),
            networks: BTreeSet::from([pod_id(), other.clone()]),
            ..Inventory::default()
        };
        assert_eq!(plan(&records, &inventory), [Action::RemoveSpare(pod_id()), Action::RemoveSpare(other)]);
    }
}
