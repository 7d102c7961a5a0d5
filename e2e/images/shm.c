/*
 * A program of the test images: keeps a text in a System V shared memory segment. Neither BusyBox nor FreeBSD's base system
 * has one that makes a segment.
 *
 *   shm make KEY TEXT    a new segment with this text; prints its id
 *   shm read KEY         prints the text
 *   shm read-id ID       the same, without asking for the key
 *   shm remove KEY       removes the segment
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>

/* Bytes of a segment; a longer text is cut. */
#define SIZE 4096

static int failed(const char *what)
{
	perror(what);
	return 1;
}

int main(int argc, char **argv)
{
	int make = argc == 4 && strcmp(argv[1], "make") == 0;
	if (!make && argc != 3)
		return 2;
	int id = (int)strtol(argv[2], NULL, 0);
	if (strcmp(argv[1], "read-id") != 0)
		id = shmget((key_t)id, make ? SIZE : 0, make ? IPC_CREAT | IPC_EXCL | 0600 : 0);
	if (id < 0)
		return failed("shmget");
	if (strcmp(argv[1], "remove") == 0)
		return shmctl(id, IPC_RMID, NULL) < 0 ? failed("shmctl") : 0;
	char *text = shmat(id, NULL, make ? 0 : SHM_RDONLY);
	if (text == (char *)-1)
		return failed("shmat");
	if (make) {
		snprintf(text, SIZE, "%s", argv[3]);
		printf("%d\n", id);
	} else {
		puts(text);
	}
	return shmdt(text) < 0 ? failed("shmdt") : 0;
}
