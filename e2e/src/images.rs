//! Builds the test images, under critest's names, from programs of this machine: BusyBox and nginx (Debian's, with their libraries)
//! and one set-user-id program.

use std::path::Path;

use anyhow::{Context, Result};
use testimage::{ARCHITECTURE, Config, Image, Layer, Node, Tree};

use crate::process::Program;
use crate::tools::Tools;

/// An image with its names.
#[derive(Debug)]
pub struct Published {
    /// The repository, without the registry: all registries of the tests are the same one.
    pub repository: String,
    /// Its tags.
    pub tags: Vec<&'static str>,
    /// Its contents.
    pub image: Image,
}

/// critest's default image: BusyBox.
pub const BUSYBOX: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
/// The pause image, for other runtimes.
pub const PAUSE: &str = "registry.k8s.io/pause:3.9";
/// critest's web server: nginx on port 80.
pub const NGINX: &str = "registry.k8s.io/e2e-test-images/nginx:1.14-2";
/// critest's second web server, BusyBox's here, which answers on IPv6 too.
pub const HTTPD: &str = "registry.k8s.io/e2e-test-images/httpd:2.4.39-4";
/// Its user is 1000, a member of group 50000 in the image's group file.
pub const PREDEFINED_GROUP: &str = "registry.k8s.io/k8s-staging-cri-tools/test-image-predefined-group:latest";
/// It declares volumes: one whose directory has a file, one whose directory is missing, and one that is a symbolic link's. Its entry
/// point is one empty word.
pub const VOLUMES: &str = "registry.k8s.io/e2e-test-images/volumes:1";
/// Its set-user-id program prints its user id.
pub const NO_NEW_PRIVS: &str = "registry.k8s.io/e2e-test-images/nonewprivs:1.3";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
";
const GROUP: &str = "root:x:0:
daemon:x:1:
bin:x:2:
www-data:x:33:
users:x:100:
nobody:x:65534:
";
/// Debian's BusyBox is built without these two. pgrep prints the processes of a name, and ipcs the shared memory.
const PGREP: &str = "#!/bin/sh\nexec pidof \"$1\"\n";
const IPCS: &str = "#!/bin/sh\nexec cat /proc/sysvipc/shm\n";

/// A Linux shell, for FreeBSD's Linux ABI.
pub fn linux_shell(tools: &Tools) -> Result<Published> {
    let config = Config { cmd: vec!["sh"], ..Config::default() };
    let image = Image::new(&[busybox_tree(tools)?.layer()?], &config);
    Ok(Published { repository: "e2e-test-images/linux-busybox".into(), tags: vec!["1"], image })
}

/// Kubernetes' own program for tests (`/agnhost`), with a shell beside it.
pub fn agnhost(tools: &Tools, program: &Path) -> Result<Published> {
    let agnhost = Tree::default().program("agnhost", &std::fs::read(program)?).layer()?;
    let config = Config { entrypoint: vec!["/agnhost"], ..Config::default() };
    let image = Image::new(&[busybox_tree(tools)?.layer()?, agnhost], &config);
    Ok(Published { repository: "e2e-test-images/agnhost".into(), tags: vec!["2.99"], image })
}

/// All images of critest, the scenario and the specs.
pub fn all(tools: &Tools) -> Result<Vec<Published>> {
    let base = busybox_tree(tools)?.layer()?;
    let nginx = nginx_tree(tools)?.layer()?;
    Parts {
        nginx: web_server(&base, &nginx, 80)?,
        hostnet_nginx: web_server(&base, &nginx, 12003)?,
        httpd: httpd(&base)?,
        no_new_privs: no_new_privs(tools)?,
        pause: pause(&base)?,
        predefined_group: predefined_group(&base)?,
        shell: Config { cmd: vec!["sh"], ..Config::default() },
        base,
    }
    .publish()
}

/// The images that differ between the systems, and the base of all others.
pub(crate) struct Parts {
    pub(crate) nginx: Image,
    /// nginx on port 12003.
    pub(crate) hostnet_nginx: Image,
    pub(crate) httpd: Image,
    pub(crate) no_new_privs: Image,
    pub(crate) pause: Image,
    pub(crate) predefined_group: Image,
    /// A shell on the base layer.
    pub(crate) shell: Config,
    pub(crate) base: Layer,
}

impl Parts {
    /// Builds the other images, and names all of them as critest does.
    pub(crate) fn publish(self) -> Result<Vec<Published>> {
        let on_base = |config: &Config| Image::new(std::slice::from_ref(&self.base), config);
        let user = |user: &'static str| on_base(&Config { user, ..self.shell.clone() });
        let marked = |text: &str| -> Result<Image> {
            let marker = Tree::default().file("etc/test-image", &format!("{text}\n")).layer()?;
            Ok(Image::new(&[self.base.clone(), marker], &self.shell))
        };
        let named =
            |repository: String, tags: &[&'static str], image| Published { repository, tags: tags.to_vec(), image };
        let e2e = |name: &str, tag, image| named(format!("e2e-test-images/{name}"), &[tag], image);
        let staging =
            |name: &str, tags: &[&'static str], image| named(format!("k8s-staging-cri-tools/{name}"), tags, image);
        let latest = |name: &str, image| staging(name, &["latest"], image);
        Ok(vec![
            e2e("busybox", "1.29-2", on_base(&self.shell)),
            e2e("nginx", "1.14-2", self.nginx),
            e2e("httpd", "2.4.39-4", self.httpd),
            e2e("nonewprivs", "1.3", self.no_new_privs),
            e2e("volumes", "1", volumes(&self.base, &self.shell)?),
            named("pause".to_owned(), &["3.9"], self.pause),
            latest(&format!("hostnet-nginx-{ARCHITECTURE}"), self.hostnet_nginx),
            latest("test-image-digest", by_digest(self.shell.os)?),
            latest("test-image-1", marked("1")?),
            latest("test-image-2", marked("2")?),
            latest("test-image-3", marked("3")?),
            latest("test-image-latest", marked("latest")?),
            staging("test-image-tags", &["1", "2", "3"], marked("tags")?),
            staging("test-image-tag", &["test"], marked("test")?),
            staging("test-image-tag", &["all"], marked("all")?),
            latest("test-image-user-uid", user("1002")),
            latest("test-image-user-username", user("www-data")),
            latest("test-image-user-uid-group", user("1003:1004")),
            latest("test-image-user-username-group", user("www-data:1004")),
            latest("test-image-predefined-group", self.predefined_group),
        ])
    }
}

/// See [`VOLUMES`].
fn volumes(base: &Layer, shell: &Config) -> Result<Image> {
    let tree = Tree::default()
        .directory("kept", 0o1777)
        .file("kept/file", "of the image\n")
        .directory("real/below", 0o755)
        .with("link", Node::Symlink("/real".into()));
    let config = Config {
        entrypoint: vec![""],
        cmd: vec!["tail", "-f", "/dev/null"],
        volumes: vec!["/kept", "/missing/below", "/link/below"],
        ..shell.clone()
    };
    Ok(Image::new(&[base.clone(), tree.layer()?], &config))
}

/// The image that critest pulls by a digest in its source. The upstream image cannot be reproduced, so critest is built with the
/// digest of this one, which does not depend on the machine. `os`: as in [`Config`].
pub fn by_digest(os: &'static str) -> Result<Image> {
    let layer = Tree::default().file("test-image-digest", "").layer()?;
    Ok(Image::new(&[layer], &Config { os, ..Config::default() }))
}

/// Debian's BusyBox, not its busybox-static, whose shell runs applets without opening their files: masking /bin/ls would have no
/// effect.
fn busybox_tree(tools: &Tools) -> Result<Tree> {
    let program = tools.package("busybox")?.join("bin/busybox");
    let applets = Program::new(&program, ["--list"]).run()?;
    let mut tree = with_libraries(Tree::default(), "bin/busybox", &program)?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        tree = tree.with(&format!("bin/{applet}"), Node::HardLink("bin/busybox".into()));
    }
    Ok(tree
        .program("bin/pgrep", PGREP.as_bytes())
        .program("bin/ipcs", IPCS.as_bytes())
        .program("bin/shm", &std::fs::read(tools.shared_memory_program()?)?)
        .file("etc/passwd", PASSWD)
        .file("etc/group", GROUP)
        .directory("tmp", 0o1777)
        .directory("root", 0o700)
        .directory("home", 0o755)
        .directory("var/www", 0o755))
}

fn predefined_group(base: &Layer) -> Result<Image> {
    let users = Tree::default()
        .file("etc/passwd", &format!("{PASSWD}default-user:x:1000:1000::/home/default-user:/bin/sh\n"))
        .file("etc/group", &format!("{GROUP}default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"))
        .layer()?;
    Ok(Image::new(&[base.clone(), users], &Config { user: "1000", cmd: vec!["sh"], ..Config::default() }))
}

/// A web server that logs `httpd`, as critest expects of Apache.
fn httpd(base: &Layer) -> Result<Image> {
    let start = "#!/bin/sh\necho httpd is on port 80\nexec httpd -f -v -p 80 -h /var/www\n";
    let site = Tree::default()
        .file("var/www/index.html", "It works!\n")
        .program("bin/start-httpd", start.as_bytes())
        .layer()?;
    Ok(Image::new(&[base.clone(), site], &Config { cmd: vec!["start-httpd"], ..Config::default() }))
}

/// Replaces the pause image: critest pulls it from two registries, and other runtimes run it.
fn pause(base: &Layer) -> Result<Image> {
    let pause = Tree::default().program("pause", b"#!/bin/sh\nexec tail -f /dev/null\n").layer()?;
    Ok(Image::new(&[base.clone(), pause], &Config { entrypoint: vec!["/pause"], ..Config::default() }))
}

fn no_new_privs(tools: &Tools) -> Result<Image> {
    let program = std::fs::read(tools.set_user_id_program()?)?;
    let tree = Tree::default().with("nnp", Node::File(0o4755, program.into()));
    Ok(Image::new(&[tree.layer()?], &Config { entrypoint: vec!["/nnp"], ..Config::default() }))
}

fn web_server(base: &Layer, nginx: &Layer, port: u16) -> Result<Image> {
    let configuration = format!(
        "user www-data www-data;\nworker_processes 1;\npid /var/run/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n  access_log off;\n  \
         server {{\n    listen {port};\n    root /usr/share/nginx/html;\n  }}\n}}\n"
    );
    let site = Tree::default()
        .file("etc/nginx/nginx.conf", &configuration)
        .file("usr/share/nginx/html/index.html", "<h1>Welcome to nginx!</h1>\n")
        .layer()?;
    let config = Config { cmd: vec!["nginx", "-g", "daemon off;"], ..Config::default() };
    Ok(Image::new(&[base.clone(), nginx.clone(), site], &config))
}

/// nginx from its package.
fn nginx_tree(tools: &Tools) -> Result<Tree> {
    let tree =
        Tree::default().directory("var/run", 0o755).directory("var/log/nginx", 0o755).directory("var/lib/nginx", 0o755);
    with_libraries(tree, "usr/sbin/nginx", &tools.package("nginx")?.join("usr/sbin/nginx"))
}

/// Adds a program of this machine with its libraries.
fn with_libraries(tree: Tree, path: &str, program: &Path) -> Result<Tree> {
    let mut tree = tree.program(path, &std::fs::read(program)?);
    for library in libraries(program)? {
        let contents = std::fs::read(&library).with_context(|| format!("cannot read {library}"))?;
        tree = tree.program(library.trim_start_matches('/'), &contents);
    }
    Ok(tree)
}

/// The files that a program loads, as ldd(1) finds them.
pub fn libraries(program: &Path) -> Result<Vec<String>> {
    let loaded = Program::new("ldd", [program]).run()?;
    Ok(loaded.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect())
}
