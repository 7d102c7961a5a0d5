//! The system calls that the default filter allows every container, by subject. The others need a capability (see the filter),
//! or no container needs them: kernel keys, io_uring, userfaultfd, modules, swap, quotas. runc skips names that the node's
//! libseccomp does not know.

/// Processes, threads, their identity and scheduling.
const PROCESSES: &str = "\
    capget capset execve execveat exit exit_group fork get_robust_list get_thread_area getcpu getegid getegid32 \
    geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid getppid getpriority \
    getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid gettid getuid getuid32 \
    ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lsm_get_self_attr \
    lsm_list_modules lsm_set_self_attr membarrier pidfd_open pidfd_send_signal prctl prlimit64 process_mrelease \
    restart_syscall rseq sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr \
    sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity \
    sched_setattr sched_setparam sched_setscheduler sched_yield seccomp set_robust_list set_thread_area \
    set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setpgid \
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit \
    setsid setuid setuid32 sysinfo tgkill times tkill ugetrlimit umask uname uretprobe vfork wait4 waitid waitpid";

const SIGNALS: &str = "\
    alarm pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signalfd signalfd4 sigprocmask sigreturn";

/// Clocks and timers; setting the clock needs a capability.
const TIME: &str = "\
    adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
    clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create \
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create \
    timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64";

const MEMORY: &str = "\
    brk madvise map_shadow_stack memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 mprotect \
    mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages";

/// Waiting and synchronization.
const WAITING: &str = "\
    _newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
    epoll_wait_old eventfd eventfd2 fanotify_mark futex futex_requeue futex_time64 futex_wait futex_waitv \
    futex_wake inotify_add_watch inotify_init inotify_init1 inotify_rm_watch poll ppoll ppoll_time64 pselect6 \
    pselect6_time64 select";

/// System V and POSIX IPC.
const MESSAGES: &str = "\
    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 \
    mq_unlink msgctl msgget msgrcv msgsnd pipe pipe2 semctl semget semop semtimedop semtimedop_time64 shmat shmctl \
    shmdt shmget";

/// Sockets, without making one: the filter lists the families.
const SOCKETS: &str = "\
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 recvmsg send \
    sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair";

/// Files, directories, their attributes, and reading and writing.
const FILES: &str = "\
    _llseek access cachestat chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 \
    faccessat faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 \
    fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 \
    fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat \
    io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl lchown lchown32 \
    lgetxattr link linkat listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 \
    mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 \
    pwritev pwritev2 read readahead readlink readlinkat readv removexattr removexattrat rename renameat renameat2 \
    rmdir sendfile sendfile64 setxattr setxattrat splice stat stat64 statfs statfs64 statmount statx symlink \
    symlinkat sync sync_file_range syncfs tee truncate truncate64 unlink unlinkat utime utimensat utimensat_time64 \
    utimes vmsplice write writev";

/// All of them.
pub(super) fn always() -> impl Iterator<Item = &'static str> {
    [PROCESSES, SIGNALS, TIME, MEMORY, WAITING, MESSAGES, SOCKETS, FILES].into_iter().flat_map(str::split_whitespace)
}
