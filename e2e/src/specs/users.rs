//! The users and groups of a container's processes: by number, by name, and from the image's own files.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use proto::v1::{ContainerConfig, ImageSpec, Int64Value, SupplementalGroupsPolicy};

use super::Spec;
use super::pod::security;
use super::stage::Stage;
use crate::images::PREDEFINED_GROUP;

pub(super) const SPECS: &[Spec] = &[
    Spec { name: "run_as_user: a number that no file of the image has", run: run_as_user },
    Spec { name: "run_as_username: a name out of the image's passwd", run: run_as_username },
    Spec { name: "run_as_group with run_as_user", run: run_as_group },
    Spec { name: "run_as_group without a user is refused", run: group_without_user },
    Spec { name: "a user that the image does not know is refused by its name", run: unknown_user },
    Spec { name: "supplemental_groups join what the user has", run: supplemental_groups },
    Spec { name: "supplemental_groups_policy Merge: the image's groups too", run: merge },
    Spec { name: "supplemental_groups_policy Strict: only those asked for", run: strict },
    Spec { name: "supplemental_groups_policy unset: the image's groups too", run: default_policy },
    Spec { name: "without linux the image's user counts", run: without_linux },
];

/// The user of [`PREDEFINED_GROUP`], its group, and the group that its image's group file puts it into.
const USER: u32 = 1000;
const DEFINED_IN_IMAGE: u32 = 50_000;

fn id(value: i64) -> Option<Int64Value> {
    Some(Int64Value { value })
}

fn predefined(config: &mut ContainerConfig) {
    config.image = Some(ImageSpec { image: PREDEFINED_GROUP.to_owned(), ..ImageSpec::default() });
}

fn run_as_user(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let container = pod.container(|config| security(config).run_as_user = id(4321))?;
    ensure_is(&container.exec("id -u")?, "4321")?;
    container.fails("touch /of-root")?;
    let user = container.status()?.user.and_then(|user| user.linux).context("the status has no user")?;
    ensure!(user.uid == 4321, "the status has user {}", user.uid);
    let printed = pod.output("id -u", |config| security(config).run_as_user = id(4321))?;
    ensure_is(&printed, "4321")
}

fn run_as_username(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let named = |config: &mut ContainerConfig| security(config).run_as_username = "www-data".to_owned();
    let container = pod.container(named)?;
    ensure_is(&container.exec("id -un; id -u; id -g")?, "www-data\n33\n33")?;
    ensure_is(&pod.output("id -un; echo $HOME", named)?, "www-data\n/var/www")
}

fn run_as_group(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let change = |config: &mut ContainerConfig| {
        security(config).run_as_user = id(4321);
        security(config).run_as_group = id(8765);
    };
    let container = pod.container(change)?;
    ensure_is(&container.exec("id -u; id -g")?, "4321\n8765")?;
    let user = container.status()?.user.and_then(|user| user.linux).context("the status has no user")?;
    ensure!((user.uid, user.gid) == (4321, 8765), "the status has {user:?}");
    ensure_is(&pod.output("id -u; id -g", change)?, "4321\n8765")
}

fn group_without_user(stage: &Stage<'_>) -> Result<()> {
    stage.pod()?.refused("run_as_group", |config| security(config).run_as_group = id(8765))
}

fn unknown_user(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    pod.refused("nosuchuser", |config| security(config).run_as_username = "nosuchuser".to_owned())
}

fn supplemental_groups(stage: &Stage<'_>) -> Result<()> {
    groups_are(stage, &[0, 1234, 5678], |config| security(config).supplemental_groups = vec![1234, 5678])
}

fn merge(stage: &Stage<'_>) -> Result<()> {
    groups_are(stage, &[USER, 1234, 5678, DEFINED_IN_IMAGE], |config| {
        predefined(config);
        security(config).supplemental_groups = vec![1234, 5678];
        security(config).set_supplemental_groups_policy(SupplementalGroupsPolicy::Merge);
    })
}

fn strict(stage: &Stage<'_>) -> Result<()> {
    groups_are(stage, &[USER, 1234, 5678], |config| {
        predefined(config);
        security(config).supplemental_groups = vec![1234, 5678];
        security(config).set_supplemental_groups_policy(SupplementalGroupsPolicy::Strict);
    })
}

fn default_policy(stage: &Stage<'_>) -> Result<()> {
    groups_are(stage, &[USER, DEFINED_IN_IMAGE], |config| {
        predefined(config);
        security(config).run_as_user = id(USER.into());
    })
}

fn without_linux(stage: &Stage<'_>) -> Result<()> {
    let pod = stage.pod_with(|config| config.linux = None)?;
    let container = pod.container(|config| {
        predefined(config);
        config.linux = None;
    })?;
    ensure_is(&container.exec("id -u; id -g; id -un")?, "1000\n1000\ndefault-user")?;
    ensure!(numbers(&container.exec("id -G")?)?.contains(&DEFINED_IN_IMAGE), "the image's groups are not there");
    Ok(())
}

/// Checks the groups of the first process, of another one, and of the status, in any order.
fn groups_are(stage: &Stage<'_>, wanted: &[u32], change: impl Fn(&mut ContainerConfig)) -> Result<()> {
    let pod = stage.pod()?;
    let wanted: BTreeSet<u32> = wanted.iter().copied().collect();
    let container = pod.container(&change)?;
    let others = numbers(&container.exec("id -G")?)?;
    ensure!(others == wanted, "a process that was started later has the groups {others:?}, not {wanted:?}");
    let first = numbers(&pod.output("id -G", &change)?)?;
    ensure!(first == wanted, "the first process has the groups {first:?}, not {wanted:?}");
    let user = container.status()?.user.and_then(|user| user.linux).context("the status has no user")?;
    let told: BTreeSet<i64> = user.supplemental_groups.iter().copied().chain([user.gid]).collect();
    ensure!(told == wanted.iter().map(|group| i64::from(*group)).collect(), "the status has {user:?}, not {wanted:?}");
    Ok(())
}

fn numbers(text: &str) -> Result<BTreeSet<u32>> {
    let parse = |word: &str| word.parse().with_context(|| format!("no numbers: {text}"));
    text.split_whitespace().map(parse).collect()
}

fn ensure_is(got: &str, wanted: &str) -> Result<()> {
    ensure!(got == wanted, "{got:?}, not {wanted:?}");
    Ok(())
}
