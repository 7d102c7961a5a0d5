/*
 * What the kernel itself charges for a pod: the bare system calls of one, each step for all pods before the next step, so that
 * the mean of each is known. Prints "step milliseconds" lines; "create" is the sum of what RunPodSandbox cannot do without
 * (jail_set, epair, bridge and move, attach).
 */
#include <sys/param.h>
#include <sys/ioctl.h>
#include <sys/jail.h>
#include <sys/socket.h>
#include <sys/sockio.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <net/if.h>
#include <net/ethernet.h>
#include <net/if_bridgevar.h>

#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PODS_MAX 256

static int control;
static int jids[PODS_MAX];
static char pairs[PODS_MAX][IFNAMSIZ];
static char bridge[IFNAMSIZ];

static double
milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec * 1e3 + now.tv_nsec / 1e6);
}

static void
set(struct iovec *pair, const char *name, void *value, size_t length)
{
	pair[0].iov_base = __DECONST(char *, name);
	pair[0].iov_len = strlen(name) + 1;
	pair[1].iov_base = value;
	pair[1].iov_len = length;
}

static void
make_jail(int pod)
{
	struct iovec parameters[10];
	char name[32];
	int new = JAIL_SYS_NEW, children = 10;

	snprintf(name, sizeof(name), "floor%d", pod);
	set(&parameters[0], "name", name, strlen(name) + 1);
	set(&parameters[2], "path", __DECONST(char *, "/"), 2);
	set(&parameters[4], "persist", NULL, 0);
	set(&parameters[6], "vnet", &new, sizeof(new));
	set(&parameters[8], "children.max", &children, sizeof(children));
	jids[pod] = jail_set(parameters, 10, JAIL_CREATE);
	if (jids[pod] < 0)
		err(1, "jail_set");
}

static void
interface(char *name, const char *of)
{
	struct ifreq request;

	memset(&request, 0, sizeof(request));
	strlcpy(request.ifr_name, of, sizeof(request.ifr_name));
	if (ioctl(control, SIOCIFCREATE2, &request) < 0)
		err(1, "create %s", of);
	strlcpy(name, request.ifr_name, IFNAMSIZ);
}

static void
make_pair(int pod)
{
	interface(pairs[pod], "epair");
}

static void
join(int pod)
{
	struct ifbreq member;
	struct ifdrv command;
	struct ifreq request;

	memset(&member, 0, sizeof(member));
	strlcpy(member.ifbr_ifsname, pairs[pod], sizeof(member.ifbr_ifsname));
	memset(&command, 0, sizeof(command));
	strlcpy(command.ifd_name, bridge, sizeof(command.ifd_name));
	command.ifd_cmd = BRDGADD;
	command.ifd_len = sizeof(member);
	command.ifd_data = &member;
	if (ioctl(control, SIOCSDRVSPEC, &command) < 0)
		err(1, "add to the bridge");
	memset(&request, 0, sizeof(request));
	strlcpy(request.ifr_name, pairs[pod], sizeof(request.ifr_name));
	request.ifr_name[strlen(request.ifr_name) - 1] = 'b';
	request.ifr_jid = jids[pod];
	if (ioctl(control, SIOCSIFVNET, &request) < 0)
		err(1, "move to the vnet");
}

static void
attach(int pod)
{
	pid_t child = fork();

	if (child == 0)
		_exit(jail_attach(jids[pod]) == 0 ? 0 : 1);
	if (child < 0 || waitpid(child, NULL, 0) < 0)
		err(1, "attach");
}

static void
destroy(const char *name)
{
	struct ifreq request;

	memset(&request, 0, sizeof(request));
	strlcpy(request.ifr_name, name, sizeof(request.ifr_name));
	if (ioctl(control, SIOCIFDESTROY, &request) < 0)
		err(1, "destroy %s", name);
}

static void
destroy_pair(int pod)
{
	destroy(pairs[pod]);
}

static void
remove_jail(int pod)
{
	if (jail_remove(jids[pod]) < 0)
		err(1, "jail_remove");
}

static double
step(const char *name, void (*of)(int), int pods)
{
	double start = milliseconds(), mean;

	for (int pod = 0; pod < pods; pod++)
		of(pod);
	mean = (milliseconds() - start) / pods;
	printf("%s %.2f\n", name, mean);
	return (mean);
}

int
main(int argc, char **argv)
{
	int pods = argc > 1 ? atoi(argv[1]) : 10;
	double create, removal;

	if (pods < 1 || pods > PODS_MAX)
		errx(64, "usage: floor [1-%d]", PODS_MAX);
	control = socket(AF_INET, SOCK_DGRAM, 0);
	if (control < 0)
		err(1, "socket");
	interface(bridge, "bridge");
	create = step("jail_set", make_jail, pods);
	create += step("epair", make_pair, pods);
	create += step("join", join, pods);
	create += step("attach", attach, pods);
	removal = step("epair_destroy", destroy_pair, pods);
	removal += step("jail_remove", remove_jail, pods);
	destroy(bridge);
	printf("create %.2f\nremove %.2f\n", create, removal);
	return (0);
}
