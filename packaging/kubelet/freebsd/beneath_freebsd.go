package freebsd

// oPath is O_PATH of sys/fcntl.h, which golang.org/x/sys does not have for FreeBSD.
const oPath = 0x00400000
