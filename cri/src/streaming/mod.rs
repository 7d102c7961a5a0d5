//! Exec, attach and port-forward: what kubelet, crictl and kubectl open by the URLs that the RPCs of these names return.
