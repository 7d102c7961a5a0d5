//! The conformance suite on the backend of the kernel that the tests run on. It needs what the backend needs, root first of
//! all: where that is missing the test says what, and passes unless it runs in CI.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod ground;

use runtime::conformance::{Programs, Subject, run};

#[test]
fn the_backend_of_this_kernel_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let settings = ground::settings(&directory.path().join("state"));
    if ground::open(&settings).is_none() {
        return;
    }
    let scratch = directory.path().join("logs");
    std::fs::create_dir_all(&scratch).unwrap();
    let (roots, of_pods, of_containers) = (directory.path().to_owned(), settings.clone(), settings.clone());
    run(&Subject {
        open: Box::new(move || runtime::open(settings.clone()).unwrap()),
        rootfs: Box::new(move || ground::make_rootfs(&roots)),
        scratch,
        programs: Programs::of_a_shell(),
        lose: Box::new(move |pod| ground::lose(&of_pods, pod)),
        damage: Box::new(move |container| ground::damage(&of_containers, container)),
    });
}
