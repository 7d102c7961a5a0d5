package freebsd

import "golang.org/x/sys/unix"

const oPath = unix.O_PATH
