#!/bin/sh
# The part `administrator` of guest.sh, which sources this: what somebody types on a node (ps, root, snapshot, stop-pods), with the tools
# of the base system against what Cellblock says.

run_administrator() {
    serve || { failures=$((failures + 1)); return; }
    cri pull "$busybox" >/dev/null
    pod_file desk
    pod=$(cri runp tmp/pod-desk.json) && one=$(container "$pod" desk one "$busybox" top) && two=$(container "$pod" desk two "$busybox" top) ||
        { failures=$((failures + 1)); stop; return; }
    check "ps names jails as jls does" ps_names_jails
    check "jails carry namespace and name" jails_carry_names
    check "a jail's processes are found by its name" processes_by_name
    check "a root has /dev/null while its container runs and when it has ended" roots_have_null
    [ -z "$dataset" ] || {
        check "a whole pod is kept, and goes back" pod_goes_back
        check "a root is exported, and a pod is made from it" root_is_imported
    }
    check "stop-pods stops all side by side" all_stop
    check "their roots are told with a warning" stopped_roots
    cri rmp "$pod"
    stop
}

admin() { "$dir/cellblock" "$@" --config cellblock.toml; }

# The words of the line of a container, or of the pod (-).
ps_line() { admin ps | awk -v container="$1" '$1 == "default/desk" && $2 == container'; }

ps_names_jails() {
    admin ps
    for name in - one two; do
        # shellcheck disable=SC2046
        set -- $(ps_line "$name")
        [ "$(jls -j "$7" jid)" = "$8" ] || { echo "$name: jail $7 has not number $8"; return 1; }
    done
    ps_line - | has "$(cri inspectp "$pod" | sed -n 's/.*"ip": "\(.*\)".*/\1/p' | head -1)"
    admin ps --json | has "\"jid\": $(jls -j "$(ps_line one | awk '{print $7}')" jid)"
}

jails_carry_names() {
    [ "$(sysctl -n kern.osreldate)" -ge 1500000 ] || return 0
    jls jid name meta | has 'cellblock=default/desk/one' || return 1
    [ "$(jls -j "$(ps_line - | awk '{print $7}')" meta.cellblock)" = default/desk ] &&
        [ "$(jls -j "$(ps_line two | awk '{print $7}')" meta.cellblock)" = default/desk/two ]
}

processes_by_name() {
    jail=$(ps_line one | awk '{print $7}')
    # The image's top is tail(1), see base.sh.
    ps -J "$jail" -o command | has tail && pgrep -j "$jail" tail && top -b -J "$jail" | has tail && jexec "$jail" hostname | has desk
}

null_in_root() { [ -c "$(admin root "$1")/dev/null" ]; }

roots_have_null() {
    null_in_root default/desk/one && null_in_root one && cri stop -t 1 "$one" && null_in_root one && null_in_root "$one"
}

pod_goes_back() {
    first=$(admin root one) && second=$(admin root two) || return 1
    echo old >"$first/state" && echo old >"$second/state" && admin snapshot desk before || return 1
    echo new >"$first/state" && echo new >"$second/state"
    admin snapshots desk
    [ "$(admin snapshots default/desk | grep -c before)" = 2 ] || return 1
    admin rollback desk before && { echo "one of them runs"; return 1; }
    cri stop -t 1 "$two" && admin rollback desk before && [ "$(cat "$first/state" "$second/state")" = "$(printf 'old\nold')" ]
}

# After pod_goes_back: the containers are stopped and have the snapshot `before`.
root_is_imported() {
    admin export one before --output tmp/one.zfs && admin import one-before tmp/one.zfs || return 1
    # The same by hand, as of a jail of another tool.
    zfs send "$(zfs list -H -o name "$(admin root two)")@before" | admin import two-before - || return 1
    admin import two-before tmp/one.zfs && { echo "a name is taken twice"; return 1; }
    head -c 100000 tmp/one.zfs | admin import half - && { echo "half of a stream is taken"; return 1; }
    zfs list -r -o name,used,origin "$dataset/imported"
    [ "$(zfs list -H -r -o name "$dataset/imported" | wc -l)" -eq 3 ] || return 1
    pod_file copy
    sed 's|^{|{"annotations": {"storage.cellblock/root.three": "one-before"},|' tmp/pod-copy.json >tmp/pod-from.json
    copy=$(cri runp tmp/pod-from.json) || return 1
    three=$(container "$copy" from three "$busybox" top) || return 1
    said=$(cri exec -s "$three" cat /state)
    [ "$said" = old ] || { echo "its state is: $said"; return 1; }
    zfs destroy -r "$dataset/imported/one-before" && { echo "a root in use is destroyed"; return 1; }
    cri rmp -f "$copy" && zfs destroy -r "$dataset/imported/one-before" && zfs destroy -r "$dataset/imported/two-before"
}

all_stop() {
    pod_file rude
    rude=$(cri runp tmp/pod-rude.json) || return 1
    for name in three four; do
        # In a shell of its own: it sets $pod. The words become JSON.
        (container "$rude" rude "$name" "$busybox" sh -c 'trap \"\" TERM; while :; do sleep 1; done') >/dev/null || return 1
    done
    begun=$(date +%s)
    admin stop-pods --timeout 5 || return 1
    took=$(($(date +%s) - begun))
    echo "$took s"
    [ -z "$(cri ps -q)" ] && [ "$took" -ge 5 ] && cri rmp "$rude"
}

stopped_roots() { admin root default/desk/one 2>&1 >/dev/null | has 'its pod is stopped'; }
