package freebsd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// OpenBeneath opens what is at a relative path below base, one component after the other, and follows no symbolic link: who
// can change the directories below base cannot lead it elsewhere. The file is open for nothing but its name (O_PATH): FIFOs
// and devices do not notice. base must be free of symbolic links.
func OpenBeneath(base, relative string) (*os.File, error) {
	if !filepath.IsLocal(relative) {
		return nil, fmt.Errorf("%q leaves %s", relative, base)
	}
	name := base
	fd, err := openPath(unix.AT_FDCWD, base)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: base, Err: err}
	}
	for _, component := range strings.Split(filepath.Clean(relative), "/") {
		if component == "." {
			continue
		}
		name = filepath.Join(name, component)
		next, err := openPath(fd, component)
		_ = unix.Close(fd)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		fd = next
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openPath opens one component; a symbolic link is ELOOP. With O_PATH, O_NOFOLLOW opens the link itself (open(2)).
func openPath(parent int, component string) (int, error) {
	fd, err := unix.Openat(parent, component, oPath|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	if stat.Mode&unix.S_IFMT == unix.S_IFLNK {
		_ = unix.Close(fd)
		return -1, unix.ELOOP
	}
	return fd, nil
}

// MakeDirBeneath creates the directories of a relative path below base, each with the given permissions whatever the umask.
// Symbolic links on the way are followed below base only. A directory that is there already is left as it is.
func MakeDirBeneath(base, relative string, mode os.FileMode) error {
	full := filepath.Join(base, relative)
	if info, err := os.Stat(full); err == nil {
		if info.IsDir() {
			return nil
		}
		return &os.PathError{Op: "mkdir", Path: full, Err: syscall.ENOTDIR}
	}
	if !filepath.IsLocal(relative) {
		return fmt.Errorf("%q leaves %s", relative, base)
	}
	root, err := os.OpenRoot(base)
	if err != nil {
		return err
	}
	defer root.Close()
	made := ""
	for _, component := range strings.Split(filepath.Clean(relative), "/") {
		made = filepath.Join(made, component)
		switch err := root.Mkdir(made, mode.Perm()); {
		case errors.Is(err, fs.ErrExist):
		case err != nil:
			return err
		default:
			if err := root.Chmod(made, mode); err != nil {
				return err
			}
		}
	}
	return nil
}
