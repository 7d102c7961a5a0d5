//! The comments of the configuration's keys, which `cellblock config` prints.

/// Every key by its section, with its comment; an empty key begins the section.
pub(super) const KEYS: &[(&str, &str, &str)] = &[
    ("", "root", "Records and images; kept over a reboot."),
    ("", "state", "Sockets, and the specs of running pods and containers; lost at a reboot."),
    ("", "address", "The CRI socket: kubelet's --container-runtime-endpoint."),
    (
        "",
        "prefix",
        "Two lower-case letters that every kernel name starts with: two servers on a machine need two prefixes.",
    ),
    ("", "log_level", "error, warn, info, debug or trace; or a filter such as \"info,image=debug\"."),
    (
        "",
        "spares",
        "Pods made ahead, and images for whose containers a root is (ZFS), where the backend has a use for them\n(FreeBSD); 0: none.",
    ),
    ("", "runtime_handlers", "Names that a RuntimeClass may give as its handler; all mean the one backend there is."),
    (
        "",
        "missing_host_path",
        "create: a directory is made for a mount whose host path is missing, as containerd and CRI-O do and charts expect;\nrefuse: the container is refused, as the comments of the CRI have it.",
    ),
    (
        "",
        "jail_parameters",
        "Parameters of jail(8) that the annotations jail.cellblock/PARAMETER of any pod may set (FreeBSD), as in\n[\"allow.mlock\", \"osrelease\"]; docs/annotations.md has them all.",
    ),
    ("image", "", "Images and root file systems."),
    (
        "image",
        "registry_config",
        "Mirrors and plain-http hosts: HOST/hosts.toml in this directory, in containerd's form, or HOST/*.crt, *.cert and\n*.key, in Docker's.",
    ),
    (
        "image",
        "registry_timeout_seconds",
        "A registry that says nothing for this long, takes longer for a manifest, or brings less than 64 KiB of a layer\nin it, is asked again, four times at most.",
    ),
    (
        "image",
        "rootfs",
        "zfs, overlay (Linux), copy (any file system), or auto: zfs where zfs_dataset is set, else overlay on\nLinux and copy on FreeBSD.",
    ),
    ("image", "zfs_dataset", "The dataset below which layers and roots are kept, e.g. \"zroot/cellblock\"."),
    (
        "image",
        "zfs_compression",
        "The compression of layers and roots that are written from now on, as zfsprops(7) has it; empty: as it is, at first\nthat of zfs_dataset.",
    ),
    ("image", "zfs_recordsize", "Their recordsize, such as \"128K\"; empty: as it is."),
    (
        "image",
        "zfs_refquota",
        "What a container may write into its root beyond its image, unless its pod has the annotation\nstorage.cellblock/refquota: bytes, or with K, M or G, such as \"10G\"; empty: no limit.",
    ),
    (
        "image",
        "allow_linux",
        "Run images for Linux under the linuxulator (FreeBSD) when an image has none for FreeBSD.",
    ),
    (
        "image",
        "pinned",
        "Images that kubelet's garbage collection and `cellblock image prune` keep: names, or beginnings of whole names\nthat end in *, as in \"registry.example.org/base/*\".",
    ),
    ("network", "", "The pods' network."),
    (
        "network",
        "pod_cidrs",
        "At most one IPv4 and one IPv6 network; the first address of each is the gateway. Empty: NetworkReady is\nfalse until kubelet sends a pod CIDR.",
    ),
    ("network", "untranslated", "Networks that pods reach with their own addresses: the cluster's."),
    ("network", "mtu", "The MTU of the pods' interfaces, in bytes."),
    (
        "network",
        "firewall",
        "What may come to a pod that it did not ask for, unless its annotation network.cellblock/firewall says otherwise:\nopen: everything; ports: connections to the ports that its containers declare; isolated: nothing.",
    ),
    (
        "network",
        "interfaces",
        "Interfaces of the node, such as [\"vlan5\"], that the annotation network.cellblock/interface of any pod may move into\nit: the node's packet filter does not see what passes there. docs/annotations.md has more.",
    ),
    (
        "network",
        "pf_directory",
        "A directory of files with rules for pf (pf.conf(5)), one of which the annotation network.cellblock/pf of any pod\nmay load into the pod's own pf (FreeBSD).",
    ),
    (
        "network",
        "names",
        "The domain of the pods' names, such as \"local.cellblock\": POD.NAMESPACE.local.cellblock, answered on port 53 of the\ngateways, which pods without a DNS configuration of their own ask. Empty: none.",
    ),
    ("streaming", "", "exec, attach and port-forward."),
    ("streaming", "address", "Where streams are served; port 0: any. Beyond loopback only with TLS."),
    ("streaming", "tls_cert", "The certificate chain and the key, both PEM files."),
    ("streaming", "tls_key", "See tls_cert."),
    ("streaming", "idle_timeout_seconds", "A stream on which nothing moves for this long is closed, in seconds."),
];
