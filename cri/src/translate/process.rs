//! A container's first process: arguments, environment, directory and user, from the request and the image.

use std::path::PathBuf;

use image::ImageConfig;
use proto::v1::{ContainerConfig, LinuxContainerSecurityContext, SupplementalGroupsPolicy};
use runtime::spec::{NameOrId, Process, User};

use super::refusal::{Refusal, absolute, invalid, number};

/// The search path for an image that sets none, as in containerd.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `hostname` is the pod's.
pub(super) fn process(
    config: &ContainerConfig,
    image: &ImageConfig,
    hostname: Option<&str>,
    context: &LinuxContainerSecurityContext,
) -> Result<Process, Refusal> {
    Ok(Process {
        args: args(config, image)?,
        env: environment(config, image, hostname)?,
        cwd: directory(&config.working_dir, &image.working_dir)?,
        tty: config.tty,
        user: user(context, &image.user)?,
    })
}

/// A command replaces the image's entrypoint and its arguments; arguments alone replace the image's arguments.
fn args(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>, Refusal> {
    let entrypoint = match image.entrypoint.as_slice() {
        // Docker writes this for an entry point that was taken away.
        [word] if word.is_empty() => &[],
        entrypoint => entrypoint,
    };
    let (program, rest) = match (config.command.as_slice(), config.args.as_slice()) {
        ([], []) => (entrypoint, image.cmd.as_slice()),
        ([], args) => (entrypoint, args),
        (command, args) => (command, args),
    };
    let args: Vec<String> = program.iter().chain(rest).cloned().collect();
    if args.is_empty() {
        return Err(invalid("command", "no command specified, and the image has neither entrypoint nor command"));
    }
    if let Some(arg) = args.iter().find(|arg| arg.contains('\0')) {
        return Err(invalid("args", format!("{arg:?} has a NUL byte")));
    }
    Ok(args)
}

/// Defaults, then the image's variables, then the request's. A later value replaces an earlier one in its place.
fn environment(
    config: &ContainerConfig,
    image: &ImageConfig,
    hostname: Option<&str>,
) -> Result<Vec<(String, String)>, Refusal> {
    let mut env: Vec<(String, String)> = vec![("PATH".to_owned(), PATH.to_owned())];
    env.extend(hostname.map(|name| ("HOSTNAME".to_owned(), name.to_owned())));
    if config.tty {
        env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let mut set = |key: &str, value: &str| match env.iter_mut().find(|(known, _)| known == key) {
        Some(known) => value.clone_into(&mut known.1),
        None => env.push((key.to_owned(), value.to_owned())),
    };
    for variable in &image.env {
        let (key, value) = variable.split_once('=').unwrap_or((variable, ""));
        set(key, value);
    }
    for (index, variable) in config.envs.iter().enumerate() {
        let key = &variable.key;
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(invalid(format!("envs[{index}].key"), format!("{key:?} cannot be a variable")));
        }
        let text = std::str::from_utf8(&variable.value).ok().filter(|text| !text.contains('\0')).ok_or_else(|| {
            invalid(format!("envs[{index}].value"), format!("of {key:?} is not UTF-8, or has a NUL byte"))
        })?;
        set(key, text);
    }
    Ok(env)
}

fn directory(wanted: &str, image: &str) -> Result<PathBuf, Refusal> {
    let text = [wanted, image, "/"].into_iter().find(|text| !text.is_empty()).expect("the last is not empty");
    absolute("working_dir", text)
}

/// The user: the request's number or name, else the image's.
fn user(context: &LinuxContainerSecurityContext, image: &str) -> Result<User, Refusal> {
    const FIELD: &str = "linux.security_context";
    let named = Some(context.run_as_username.as_str()).filter(|name| !name.is_empty());
    let asked_group = match context.run_as_group {
        Some(_) if context.run_as_user.is_none() && named.is_none() => {
            return Err(invalid(format!("{FIELD}.run_as_group"), "set without run_as_user or run_as_username"));
        }
        Some(group) => Some(NameOrId::Id(number(&format!("{FIELD}.run_as_group"), group.value)?)),
        None => None,
    };
    let (user, group) = match (context.run_as_user, named) {
        (Some(_), Some(name)) => {
            let reason = format!("{name:?} and run_as_user at once");
            return Err(invalid(format!("{FIELD}.run_as_username"), reason));
        }
        (Some(user), None) => (NameOrId::Id(number(&format!("{FIELD}.run_as_user"), user.value)?), asked_group),
        (None, Some(name)) => (name_or_id(name), asked_group),
        (None, None) => image_user(image),
    };
    let groups = context.supplemental_groups.iter();
    let supplemental =
        groups.map(|group| number(&format!("{FIELD}.supplemental_groups"), *group)).collect::<Result<_, _>>()?;
    let policy = SupplementalGroupsPolicy::try_from(context.supplemental_groups_policy).map_err(|_| {
        let reason = format!("{} is no policy", context.supplemental_groups_policy);
        invalid(format!("{FIELD}.supplemental_groups_policy"), reason)
    })?;
    Ok(User { user, group, supplemental, merge_image_groups: policy == SupplementalGroupsPolicy::Merge })
}

/// An image has `user` or `user:group`, each by name or number; empty: 0.
fn image_user(text: &str) -> (NameOrId, Option<NameOrId>) {
    let (user, group) = text.split_once(':').map_or((text, ""), |(user, group)| (user, group));
    let user = if user.is_empty() { NameOrId::Id(0) } else { name_or_id(user) };
    (user, Some(group).filter(|group| !group.is_empty()).map(name_or_id))
}

fn name_or_id(text: &str) -> NameOrId {
    text.parse().map_or_else(|_| NameOrId::Name(text.to_owned()), NameOrId::Id)
}

#[cfg(test)]
mod tests {
    use image::ImageConfig;
    use proto::v1::{ContainerConfig, Int64Value, KeyValue, LinuxContainerSecurityContext};
    use runtime::spec::NameOrId::{self, Id, Name};

    use super::{PATH, process, user};

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: words(&["/entry"]),
            cmd: words(&["default"]),
            env: words(&["A=image", "B=image"]),
            working_dir: "/image".to_owned(),
            ..ImageConfig::default()
        }
    }

    fn variable(key: &str, value: &[u8]) -> KeyValue {
        KeyValue { key: key.to_owned(), value: value.to_vec() }
    }

    #[test]
    fn the_request_replaces_the_image_as_kubernetes_says() {
        for (command, args, wanted) in [
            (&[][..], &[][..], &["/entry", "default"][..]),
            (&[], &["one"], &["/entry", "one"]),
            (&["/own"], &[], &["/own"]),
            (&["/own"], &["one"], &["/own", "one"]),
        ] {
            let config = ContainerConfig { command: words(command), args: words(args), ..ContainerConfig::default() };
            let got = process(&config, &image(), None, &LinuxContainerSecurityContext::default()).unwrap();
            assert_eq!(got.args, words(wanted));
        }
        let nothing = process(
            &ContainerConfig::default(),
            &ImageConfig::default(),
            None,
            &LinuxContainerSecurityContext::default(),
        );
        assert!(nothing.unwrap_err().to_string().contains("no command specified"));
    }

    #[test]
    fn the_environment_is_merged_in_order() {
        let config = ContainerConfig {
            envs: vec![variable("B", b"own"), variable("C", b"a=b")],
            tty: true,
            ..ContainerConfig::default()
        };
        let got = process(&config, &image(), Some("pod"), &LinuxContainerSecurityContext::default()).unwrap();
        let wanted =
            [("PATH", PATH), ("HOSTNAME", "pod"), ("TERM", "xterm"), ("A", "image"), ("B", "own"), ("C", "a=b")];
        assert_eq!(got.env, wanted.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(got.cwd, std::path::Path::new("/image"));
    }

    #[test]
    fn a_variable_that_no_process_can_have_is_refused() {
        for bad in [variable("", b"x"), variable("A=B", b"x"), variable("A", b"\xff"), variable("A", b"a\0b")] {
            let config = ContainerConfig { envs: vec![bad], ..ContainerConfig::default() };
            let refusal = process(&config, &image(), None, &LinuxContainerSecurityContext::default()).unwrap_err();
            assert!(refusal.to_string().starts_with("envs[0]."), "{refusal}");
        }
        let config = ContainerConfig { working_dir: "etc".to_owned(), ..ContainerConfig::default() };
        let refusal = process(&config, &image(), None, &LinuxContainerSecurityContext::default()).unwrap_err();
        assert!(refusal.to_string().contains("working_dir: \"etc\""));
    }

    #[test]
    fn a_user_comes_from_the_request_else_from_the_image() {
        let asked = |uid: Option<i64>, name: &str, gid: Option<i64>| LinuxContainerSecurityContext {
            run_as_user: uid.map(|value| Int64Value { value }),
            run_as_group: gid.map(|value| Int64Value { value }),
            run_as_username: name.to_owned(),
            ..LinuxContainerSecurityContext::default()
        };
        let name = |text: &str| Name(text.to_owned());
        let cases: [(_, &str, NameOrId, Option<NameOrId>); 7] = [
            (asked(None, "", None), "", Id(0), None),
            (asked(None, "", None), "1000:users", Id(1000), Some(name("users"))),
            (asked(None, "", None), "www", name("www"), None),
            (asked(Some(1001), "", None), "1000:1000", Id(1001), None),
            (asked(Some(1001), "", Some(5)), "", Id(1001), Some(Id(5))),
            (asked(None, "nobody", None), "1000", name("nobody"), None),
            (asked(None, "nobody", Some(7)), "1000", name("nobody"), Some(Id(7))),
        ];
        for (context, image, wanted_user, wanted_group) in cases {
            let got = user(&context, image).unwrap();
            assert_eq!((got.user, got.group), (wanted_user, wanted_group));
        }
        for (context, field) in [
            (asked(None, "", Some(5)), "run_as_group"),
            (asked(Some(-1), "", None), "run_as_user: -1"),
            (asked(Some(1), "root", None), "run_as_username"),
        ] {
            assert!(user(&context, "").unwrap_err().to_string().contains(field));
        }
    }
}
