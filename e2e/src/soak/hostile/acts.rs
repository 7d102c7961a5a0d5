//! What an administrator does to a node. Each act is a script with the variables of [`super::pods::Pod::variables`]; some last until
//! they are undone.

/// What an act may take away from the pod that it is aimed at; it takes nothing from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// The server repairs it.
    Nothing,
    /// The pod, which becomes NotReady with a reason.
    Pod,
    /// Its first container, which is reported as exited with a reason.
    Container,
    /// Anything of the container's, or nothing: its root is gone while its processes may run on.
    Perhaps,
    /// Nothing; the soak removes the pod while the act lasts, which must work.
    Removed,
}

/// An act.
#[derive(Debug)]
pub(super) struct Act {
    pub(super) name: &'static str,
    pub(super) script: &'static str,
    /// Ends it.
    pub(super) undo: Option<&'static str>,
    pub(super) takes: Takes,
    /// Whether Status must say meanwhile that the network is not ready.
    pub(super) tells: bool,
}

const fn act(name: &'static str, script: &'static str, takes: Takes) -> Act {
    Act { name, script, undo: None, takes, tells: false }
}

/// One that lasts.
const fn state(name: &'static str, script: &'static str, undo: &'static str, takes: Takes) -> Act {
    Act { name, script, undo: Some(undo), takes, tells: false }
}

/// What is done on both systems.
const ANYWHERE: [Act; 2] = [
    act("kill -9 of a container's first process", "kill -9 $PID", Takes::Container),
    state("a full disk", "dd if=/dev/zero of=$ROOT/fill bs=64k 2>/dev/null || true", "rm $ROOT/fill", Takes::Removed),
];

const LINUX: [Act; 11] = [
    act("ip link del of a pod's interface", "ip link del $END", Takes::Pod),
    act("ip link del of the bridge", "ip link del $BRIDGE", Takes::Nothing),
    act("ip addr flush of the bridge", "ip addr flush dev $BRIDGE", Takes::Nothing),
    act("a pod's interface down", "ip link set $END down", Takes::Nothing),
    act("a pod's routes flushed", "ip route flush dev $END; ip -6 route flush dev $END", Takes::Nothing),
    act("nft flush ruleset", "nft flush ruleset", Takes::Nothing),
    act(
        "nft delete chain",
        "nft flush chain inet $ANCHOR spoofed; nft delete chain inet $ANCHOR spoofed",
        Takes::Nothing,
    ),
    act("nft delete table of a pod", "nft delete table inet $ANCHOR-$POD", Takes::Nothing),
    act(
        "forwarding off",
        "echo 0 >/proc/sys/net/ipv4/ip_forward; echo 0 >/proc/sys/net/ipv6/conf/all/forwarding",
        Takes::Nothing,
    ),
    act(
        "umount -l of a pod's network",
        "umount -l $(awk '$2 ~ \"/pods/'$SHORT'/net$\" {print $2}' /proc/mounts)",
        Takes::Pod,
    ),
    act(
        "umount -l of a container's root",
        "for m in $(awk '$2 ~ \"'$CONTAINER'\" {print $2}' /proc/mounts | sort -r); do umount -l $m; done",
        Takes::Perhaps,
    ),
];

const FREEBSD: [Act; 12] = [
    act("jail -r of a pod", "jail -R $JAIL", Takes::Pod),
    act("jail -r of a container", "jail -R $JAIL.c$CONTAINER", Takes::Container),
    act("ifconfig destroy of an epair", "ifconfig $END destroy", Takes::Pod),
    act("ifconfig destroy of the bridge", "ifconfig $BRIDGE destroy", Takes::Nothing),
    act("service netif restart", "(service netif restart; service routing restart) >/dev/null || true", Takes::Nothing),
    act("a pod's route deleted", "route -q delete -host $ADDRESS", Takes::Nothing),
    act("an anchor flushed", "pfctl -q -a $ANCHOR/node -F rules", Takes::Nothing),
    act("a pod's anchor flushed", "pfctl -q -a $ANCHOR/$SHORT -F nat", Takes::Nothing),
    Act { tells: true, ..state("pfctl -F all", "pfctl -q -F all", "pfctl -q -f $DIR/pf.conf", Takes::Nothing) },
    Act { tells: true, ..state("pf disabled", "pfctl -q -d", "pfctl -q -e", Takes::Nothing) },
    act(
        "umount -f of a container's root",
        "for m in $(mount -p | awk '$2 ~ \"'$CONTAINER'\" {print $2}' | sort -r); do umount -f $m; done",
        Takes::Perhaps,
    ),
    state(
        "a clock that jumps an hour",
        "date -f %s $(($(date +%s) + 3600)) >/dev/null",
        "date -f %s $(($(date +%s) - 3600)) >/dev/null",
        Takes::Nothing,
    ),
];

/// With roots on ZFS. The pod is removed while the snapshots hold its datasets, or the dataset has no room.
const ZFS: [Act; 2] = [
    state("zfs snapshot -r", "zfs snapshot -r $DATASET@hand", "zfs destroy -r $DATASET@hand", Takes::Removed),
    state(
        "a full dataset",
        // What it uses grows a little until it is written.
        "zfs set quota=$(($(zfs get -Hp -o value used $DATASET) + 1048576)) $DATASET",
        "zfs set quota=none $DATASET",
        Takes::Removed,
    ),
];

/// All acts of this system.
pub(super) fn all(zfs: bool) -> Vec<Act> {
    let mut acts = Vec::from(ANYWHERE);
    match std::env::consts::OS {
        "freebsd" => acts.extend(FREEBSD),
        _ => acts.extend(LINUX),
    }
    if zfs {
        acts.extend(ZFS);
    }
    acts
}
