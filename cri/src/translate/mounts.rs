//! Mounts and devices. A mount that names an image has no source yet: its directory comes from the image store.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use proto::v1::{Device as WireDevice, Mount as WireMount, MountPropagation};
use runtime::spec::{Device, Mount, MountOptions, MountSource, Propagation};

use super::refusal::{Refusal, absolute, invalid};

/// Volumes that an image may declare; known ones have a dozen at most.
const DECLARED_MAX: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageVolume {
    /// Its index in ContainerConfig.mounts.
    pub(crate) index: usize,
    /// The image, as the request names it: a reference or an id.
    pub(crate) image: String,
    /// The directory of the image that is mounted; empty: its root.
    pub(crate) sub_path: String,
}

/// The mounts of a container, and which of them are images: the source of those is empty.
pub(super) fn mounts(wanted: &[WireMount]) -> Result<(Vec<Mount>, Vec<ImageVolume>), Refusal> {
    let volumes: Vec<_> = wanted.iter().enumerate().map(volume).collect::<Result<_, _>>()?;
    let mounts = wanted.iter().zip(&volumes).enumerate();
    let mounts = mounts.map(|(index, (mount, volume))| translate(index, mount, volume.is_some()));
    Ok((mounts.collect::<Result<_, _>>()?, volumes.into_iter().flatten().collect()))
}

/// The paths that the image declares as volumes and no mount of the request takes, in the form `/a/b`. What the kernel shows (/dev,
/// /proc, /sys) is no volume, whatever an image says of it.
pub(super) fn declared(volumes: &[String], wanted: &[WireMount]) -> Result<Vec<PathBuf>, Refusal> {
    if volumes.len() > DECLARED_MAX {
        let reason = format!("declares {} volumes, which are more than {DECLARED_MAX}", volumes.len());
        return Err(invalid("image", reason));
    }
    let taken = wanted.iter().map(|mount| normal(&mount.container_path));
    let mut seen: BTreeSet<PathBuf> = taken.chain(["/".into()]).collect();
    let kernel = |path: &Path| ["/dev", "/proc", "/sys"].iter().any(|own| path.starts_with(own));
    let paths = volumes.iter().map(|path| normal(path)).filter(|path| !kernel(path));
    Ok(paths.filter(|path| seen.insert(path.clone())).collect())
}

/// The path without `.`, `..` and doubled slashes; a relative one begins at the root.
fn normal(path: &str) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => drop(normal.pop()),
            _ => {}
        }
    }
    normal
}

/// The mount of a declared volume, which has no source yet.
pub(super) fn of_declared(path: &Path) -> Mount {
    Mount {
        destination: path.to_owned(),
        source: MountSource::Host(PathBuf::new()),
        readonly: false,
        recursive_readonly: false,
        propagation: Propagation::Private,
        options: MountOptions::default(),
    }
}

fn volume((index, mount): (usize, &WireMount)) -> Result<Option<ImageVolume>, Refusal> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    let Some(image) = mount.image.as_ref().filter(|image| !image.image.is_empty()) else {
        if !mount.image_sub_path.is_empty() {
            return Err(invalid(field("image_sub_path"), format!("{:?} without an image", mount.image_sub_path)));
        }
        return Ok(None);
    };
    if !mount.host_path.is_empty() {
        return Err(invalid(field("host_path"), format!("{:?} and an image at once", mount.host_path)));
    }
    let normal = Path::new(&mount.image_sub_path).components().all(|part| matches!(part, Component::Normal(_)));
    if !normal || mount.image_sub_path.contains('\0') {
        return Err(invalid(field("image_sub_path"), format!("{:?} is no path in the image", mount.image_sub_path)));
    }
    Ok(Some(ImageVolume { index, image: image.image.clone(), sub_path: mount.image_sub_path.clone() }))
}

fn translate(index: usize, mount: &WireMount, is_image: bool) -> Result<Mount, Refusal> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
        return Err(invalid(field("uidMappings"), "id-mapped mounts are not supported"));
    }
    let propagation = propagation(&field("propagation"), mount.propagation)?;
    if mount.recursive_read_only && !(mount.readonly && propagation == Propagation::Private) {
        let reason = "true, but the mount is not readonly with private propagation";
        return Err(invalid(field("recursive_read_only"), reason));
    }
    // CRI: an image volume is read-only by definition; a caller that wants to write would find out too late.
    if is_image && !mount.readonly {
        return Err(invalid(field("readonly"), "false, but an image is mounted read-only"));
    }
    let source = if is_image { PathBuf::new() } else { absolute(&field("host_path"), &mount.host_path)? };
    let destination = absolute(&field("container_path"), &mount.container_path)?;
    if normal(&mount.container_path) == Path::new("/") {
        return Err(invalid(field("container_path"), format!("{:?} is the container's root", mount.container_path)));
    }
    Ok(Mount {
        destination,
        source: MountSource::Host(source),
        readonly: mount.readonly,
        recursive_readonly: mount.recursive_read_only,
        propagation,
        options: options(&field("mount_options"), &mount.mount_options)?,
    })
}

fn options(field: &str, wanted: &[String]) -> Result<MountOptions, Refusal> {
    let mut options = MountOptions::default();
    for option in wanted {
        match option.as_str() {
            "noexec" => options.noexec = true,
            "nosuid" => options.nosuid = true,
            "nodev" => options.nodev = true,
            _ => return Err(invalid(field, format!("{option:?} is none of noexec, nodev, nosuid"))),
        }
    }
    Ok(options)
}

fn propagation(field: &str, value: i32) -> Result<Propagation, Refusal> {
    match MountPropagation::try_from(value) {
        Ok(MountPropagation::PropagationPrivate) => Ok(Propagation::Private),
        Ok(MountPropagation::PropagationHostToContainer) => Ok(Propagation::HostToContainer),
        Ok(MountPropagation::PropagationBidirectional) => Ok(Propagation::Bidirectional),
        Err(_) => Err(invalid(field, format!("{value} is no propagation"))),
    }
}

pub(super) fn devices(wanted: &[WireDevice]) -> Result<Vec<Device>, Refusal> {
    let translate = |(index, device): (usize, &WireDevice)| {
        let field = |name: &str| format!("devices[{index}].{name}");
        let permissions = &device.permissions;
        if !permissions.bytes().all(|b| b"rwm".contains(&b)) {
            return Err(invalid(field("permissions"), format!("{permissions:?} is not made of r, w and m")));
        }
        Ok(Device {
            source: absolute(&field("host_path"), &device.host_path)?,
            destination: absolute(&field("container_path"), &device.container_path)?,
            read: permissions.contains('r'),
            write: permissions.contains('w'),
            mknod: permissions.contains('m'),
        })
    };
    wanted.iter().enumerate().map(translate).collect()
}

#[cfg(test)]
mod tests {
    use proto::v1::{Device as WireDevice, IdMapping, ImageSpec, Mount as WireMount};
    use runtime::spec::{MountOptions, MountSource, Propagation};

    use super::{DECLARED_MAX, declared, devices, mounts};

    fn mount(host_path: &str, container_path: &str) -> WireMount {
        WireMount { host_path: host_path.to_owned(), container_path: container_path.to_owned(), ..WireMount::default() }
    }

    fn image_mount(image: &str, sub_path: &str) -> WireMount {
        let image = Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() });
        WireMount { image, image_sub_path: sub_path.to_owned(), readonly: true, ..mount("", "/volume") }
    }

    #[test]
    fn mount_options_are_read_by_name() {
        let with = |names: &[&str]| {
            let mount_options = names.iter().map(|name| (*name).to_owned()).collect();
            mounts(&[WireMount { mount_options, ..mount("/a", "/b") }])
        };
        assert_eq!(with(&[]).unwrap().0[0].options, MountOptions::default());
        let wanted = MountOptions { noexec: true, nosuid: false, nodev: true };
        assert_eq!(with(&["nodev", "noexec"]).unwrap().0[0].options, wanted);
        let refusal = with(&["noexec", "sync"]).unwrap_err().to_string();
        assert_eq!(refusal, r#"mounts[0].mount_options: "sync" is none of noexec, nodev, nosuid"#);
    }

    #[test]
    fn a_mount_is_what_was_asked_for() {
        let wanted = WireMount { readonly: true, recursive_read_only: true, ..mount("/a", "/b") };
        let got = mounts(&[wanted, WireMount { propagation: 2, ..mount("/c", "/d") }]).unwrap().0;
        assert_eq!(got[0].source, MountSource::Host("/a".into()));
        assert!(got[0].readonly && got[0].recursive_readonly);
        assert_eq!((got[1].readonly, got[1].propagation), (false, Propagation::Bidirectional));
    }

    #[test]
    fn an_image_is_mounted_read_only_and_has_no_source_yet() {
        let wanted = [mount("/a", "/b"), image_mount("busybox", "etc")];
        let (got, volumes) = mounts(&wanted).unwrap();
        assert_eq!((volumes.len(), volumes[0].index, volumes[0].sub_path.as_str()), (1, 1, "etc"));
        assert_eq!(got[1].source, MountSource::Host("".into()));
        assert!(got[1].readonly && !got[0].readonly);
        let wrong = [("busybox", "../etc"), ("busybox", "/etc"), ("busybox", "a\0b"), ("", "etc")];
        for wrong in wrong.map(|(image, sub_path)| image_mount(image, sub_path)) {
            assert!(mounts(&[wrong]).unwrap_err().to_string().contains("mounts[0].image_sub_path"));
        }
    }

    #[test]
    fn declared_volumes_are_those_that_no_mount_takes() {
        let volumes = [
            "/data",
            "/data/",
            "/a/./b/../c",
            "relative",
            "/",
            "",
            "/proc/x",
            "/sys/fs/cgroup",
            "/dev",
            "/taken",
            "/developer",
        ];
        let volumes = volumes.map(str::to_owned);
        let got = declared(&volumes, &[mount("/host", "/taken/"), mount("/host", "/data/sub")]).unwrap();
        assert_eq!(got, ["/data", "/a/c", "/relative", "/developer"].map(std::path::PathBuf::from));
        let many: Vec<String> = (0..=DECLARED_MAX).map(|n| format!("/{n}")).collect();
        assert!(declared(&many, &[]).unwrap_err().to_string().contains("129 volumes"));
    }

    #[test]
    fn a_mount_that_cannot_be_is_refused_with_its_field() {
        for (wanted, field) in [
            (mount("a", "/b"), "mounts[0].host_path: \"a\""),
            (mount("/a", ""), "mounts[0].container_path: \"\""),
            (mount("/a", "/b/.."), "mounts[0].container_path: \"/b/..\" is the container's root"),
            (WireMount { propagation: 9, ..mount("/a", "/b") }, "mounts[0].propagation: 9"),
            (WireMount { recursive_read_only: true, ..mount("/a", "/b") }, "mounts[0].recursive_read_only"),
            (WireMount { readonly: false, ..image_mount("busybox", "") }, "mounts[0].readonly: false"),
            (WireMount { uid_mappings: vec![IdMapping::default()], ..mount("/a", "/b") }, "mounts[0].uidMappings"),
        ] {
            let refusal = mounts(&[wanted]).unwrap_err().to_string();
            assert!(refusal.contains(field), "{refusal}");
        }
    }

    #[test]
    fn a_device_has_the_permissions_that_were_asked_for() {
        let device = |permissions: &str| WireDevice {
            host_path: "/dev/null".to_owned(),
            container_path: "/dev/nothing".to_owned(),
            permissions: permissions.to_owned(),
        };
        let got = devices(&[device("rm")]).unwrap();
        assert_eq!((got[0].read, got[0].write, got[0].mknod), (true, false, true));
        assert!(devices(&[device("rwx")]).unwrap_err().to_string().contains("devices[0].permissions: \"rwx\""));
    }
}
