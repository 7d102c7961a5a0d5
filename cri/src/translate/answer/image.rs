//! Images as CRI and the admin service tell them. Pure.

use image::{Image, Reference};
use proto::{admin, v1};

/// An image as CRI has it: a user either by number or by name, and of `user:group` only the user.
pub(crate) fn image(image: &Image, pinned: &[String]) -> v1::Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = if user.is_empty() { None } else { user.parse().ok() };
    v1::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        uid: uid.map(|value| v1::Int64Value { value }),
        spec: None,
        pinned: is_pinned(pinned, image),
    }
}

pub(crate) fn admin_image(image: &Image) -> admin::Image {
    admin::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
    }
}

/// Whether an image has one of these names, or one that begins like a name that ends in `*`. kubelet's garbage collection and
/// `cellblock image prune` keep it.
pub(crate) fn is_pinned(pinned: &[String], image: &Image) -> bool {
    let names = || image.repo_tags.iter().chain(&image.repo_digests);
    pinned.iter().any(|wanted| match wanted.strip_suffix('*') {
        Some(beginning) => names().any(|name| name.starts_with(beginning)),
        None => Reference::parse(wanted).is_ok_and(|wanted| names().any(|name| *name == wanted.to_string())),
    })
}

#[cfg(test)]
mod tests {
    use image::{Image, ImageConfig};

    use super::is_pinned;

    #[test]
    fn an_image_is_pinned_by_any_of_its_names() {
        let image = Image {
            id: format!("sha256:{}", "1".repeat(64)),
            repo_tags: vec!["docker.io/library/base:1".to_owned(), "quay.io/team/base:1".to_owned()],
            repo_digests: vec![format!("quay.io/team/base@sha256:{}", "2".repeat(64))],
            size: 1,
            config: ImageConfig::default(),
        };
        let digest = format!("quay.io/team/base@sha256:{}", "2".repeat(64));
        for (wanted, pinned) in [
            ("base:1", true),
            ("docker.io/library/base:1", true),
            (digest.as_str(), true),
            ("quay.io/team/*", true),
            ("*", true),
            ("base", false),
            ("base:2", false),
            ("team/*", false),
            ("Not A Name", false),
        ] {
            assert_eq!(is_pinned(&[wanted.to_owned()], &image), pinned, "{wanted}");
        }
        assert!(!is_pinned(&[], &image));
    }
}
