// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random operations of several processes, checked against a model
 *
 *   ioasid_soak [--ops N] [--seed S] [--seconds T]
 *   ioasid_soak --replay FILE
 *
 * The defaults of the three come from SOAK_OPS, SOAK_SEED and SOAK_SECONDS.
 *
 * One process drives the others ("actors") through sockets, one operation at a
 * time, so that the model can predict each errno, state and counter. Each
 * sequence of operations starts from nothing and must leave nothing. The same
 * seed gives the same sequences: operations name slots rather than values
 * chosen by the kernel, and an operation that makes no sense in its place is
 * skipped. Therefore any part of a sequence is a valid sequence: a failing one
 * is minimised by removing parts, and printed for --replay, one operation per
 * line.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../kselftest.h"
#include "cgroup_utils.h"
#include "ioasid_utils.h"
#include "ioasid_watch.h"
#include "kvm_utils.h"
#include "pdma_utils.h"
#include "soak_utils.h"

#define NR_PROCS	4
#define NR_FILES	6
#define NR_NUMS		24
#define NR_VMS		2
#define NR_GUEST	3
/* Accounts of open files, and of closed files that left IOASIDs behind */
#define NR_ACCOUNTS	(NR_FILES + NR_NUMS + 1)

#define SEQ_LEN		400
#define CHECK_EVERY	50
#define MAX_BATCH	4
#define DEFAULT_QUOTA	4096
#define NO_LIMIT	1000

#define REPLY_MS	60000

/* Descriptor numbers that all actors share */
#define FD_MEM		90
#define FD_SOCK		100
#define BAD_FD		900

enum code {
	OP_START, OP_FORK, OP_EXEC, OP_EXIT, OP_KILL,
	OP_OPEN, OP_CLOSE, OP_DUP, OP_PASS,
	OP_ALLOC, OP_FREE, OP_QUERY, OP_INFO, OP_QUOTA,
	OP_DEV_OPEN, OP_DEV_CLOSE, OP_DEV_ADD, OP_DEV_REPLACE, OP_DEV_DROP,
	OP_DEV_DROP_ALL, OP_DEV_LIST, OP_COPY, OP_STREAM, OP_STOP,
	OP_VM_OPEN, OP_VM_CLOSE, OP_ADD, OP_REPLACE, OP_DEL, OP_CLEAR, OP_MAPS,
	OP_LIMIT, OP_MOVE, OP_RESET, OP_RECLAIM,
	NR_OPS,
	/* Internal step of fork and pass, not part of sequences */
	MSG_RECEIVE = NR_OPS,
};

/* Names and arguments of the operations. The first argument is the actor p. */
static const struct {
	const char *name;
	unsigned int weight;
} ops[NR_OPS] = {
	[OP_START] = { "start", 6 },
	[OP_FORK] = { "fork", 2 },		/* q */
	[OP_EXEC] = { "exec", 1 },
	[OP_EXIT] = { "exit", 1 },
	[OP_KILL] = { "kill", 1 },
	[OP_OPEN] = { "open", 20 },		/* file */
	[OP_CLOSE] = { "close", 10 },		/* file */
	[OP_DUP] = { "dup", 6 },		/* file */
	[OP_PASS] = { "pass", 10 },		/* file, q */
	[OP_ALLOC] = { "alloc", 90 },		/* file, range, count */
	[OP_FREE] = { "free", 50 },		/* file, number, twice? */
	[OP_QUERY] = { "query", 80 },		/* file, number */
	[OP_INFO] = { "info", 40 },		/* file */
	[OP_QUOTA] = { "quota", 8 },		/* file, quota */
	[OP_DEV_OPEN] = { "dev_open", 30 },	/* device */
	[OP_DEV_CLOSE] = { "dev_close", 2 },	/* device */
	[OP_DEV_ADD] = { "dev_add", 60 },	/* device, file, number */
	[OP_DEV_REPLACE] = { "dev_replace", 20 }, /* device, file, number, old */
	[OP_DEV_DROP] = { "dev_drop", 12 },	/* device, number */
	[OP_DEV_DROP_ALL] = { "dev_drop_all", 2 }, /* device */
	[OP_DEV_LIST] = { "dev_list", 20 },	/* device, number, count */
	[OP_COPY] = { "copy", 20 },		/* device, number, channel */
	[OP_STREAM] = { "stream", 70 },		/* device, number, channel */
	[OP_STOP] = { "stop", 5 },		/* device, channel */
	[OP_VM_OPEN] = { "vm_open", 4 },	/* vm */
	[OP_VM_CLOSE] = { "vm_close", 1 },	/* vm */
	[OP_ADD] = { "add", 30 },		/* vm, guest, file, number */
	[OP_REPLACE] = { "replace", 8 },	/* vm, guest, file, number */
	[OP_DEL] = { "del", 6 },		/* vm, guest */
	[OP_CLEAR] = { "clear", 2 },		/* vm */
	[OP_MAPS] = { "maps", 6 },		/* vm */
	[OP_LIMIT] = { "limit", 4 },		/* -, group, limit */
	[OP_MOVE] = { "move", 4 },		/* group */
	[OP_RESET] = { "reset", 1 },		/* -, engine */
	[OP_RECLAIM] = { "reclaim", 1 },	/* - */
};

struct op {
	__u32 code;
	__u32 p;
	__u32 arg[4];
};

struct msg {
	__u32 code;
	__u32 arg[8];
};

struct reply {
	int ret;
	__u32 val[8];
};

/* At the start of the memory shared by all processes */
struct shared {
	char uuid[NR_DEVS][PDMA_UUID_LEN + 1];
};

static char *mem;
#define shared ((struct shared *)mem)
#define dev_buf(d) (mem + 0x1000 + (d) * DEV_BUF_LEN)
#define chan_buf(d, c) (dev_buf(d) + (c) * BUF_LEN)
#define MEM_LEN (0x1000 + NR_DEVS * DEV_BUF_LEN)

/* The actors */

static struct {
	unsigned int nr;
	int file[NR_FILES];
	struct pdma_dev dev[NR_DEVS];
	int vm[NR_VMS];
	int vm_dev[NR_VMS];
} self;

static int file_fd(__u32 f)
{
	return self.file[f] < 0 ? BAD_FD : self.file[f];
}

static void actor_close_users(void)
{
	int i;

	for (i = 0; i < NR_DEVS; i++)
		pdma_close(&self.dev[i]);
	for (i = 0; i < NR_VMS; i++) {
		close(self.vm_dev[i]);
		close(self.vm[i]);
		self.vm[i] = -1;
		self.vm_dev[i] = -1;
	}
}

static void actor_init(unsigned int nr)
{
	int i;

	memset(&self, 0xff, sizeof(self));
	self.nr = nr;
	for (i = 0; i < NR_DEVS; i++)
		pdma_init(&self.dev[i]);
	mem = mmap(NULL, MEM_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, FD_MEM,
		   0);
	if (mem == MAP_FAILED)
		_exit(1);
}

static void actor_loop(void);

/* Create siblings rather than children, so that one process can wait for all */
static int actor_fork(__u32 nr, __u32 *pid)
{
	long ret = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
	struct reply reply = {};

	if (ret < 0)
		return -errno;
	if (ret) {
		*pid = ret;
		return 0;
	}
	self.nr = nr;
	actor_close_users();
	if (write(FD_SOCK + nr, &reply, sizeof(reply)) != sizeof(reply))
		_exit(1);
	actor_loop();
	_exit(1);
}

static void actor_exec(void)
{
	char nr[16], files[NR_FILES * 16] = "";
	int i, n = 0;

	for (i = 0; i < NR_FILES; i++) {
		n += snprintf(files + n, sizeof(files) - n, "%d,", self.file[i]);
		if (self.file[i] >= 0)
			fcntl(self.file[i], F_SETFD, 0);
	}
	snprintf(nr, sizeof(nr), "%u", self.nr);
	execl("/proc/self/exe", "ioasid_soak", "--actor", nr, files, NULL);
	_exit(1);
}

static int actor_dup(__u32 f)
{
	int fd = fcntl(self.file[f], F_DUPFD_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	close(self.file[f]);
	self.file[f] = fd;
	return 0;
}

static int actor_copy(__u32 d, __u32 c, __u32 id)
{
	struct pdma_dev chan = pdma_channel(&self.dev[d], c);
	__u64 iova = IOVA + c * BUF_LEN;
	char *buf = chan_buf(d, c);
	int ret;

	memset(buf + COPY_SRC, 0xa5, COPY_LEN);
	memset(buf + COPY_DST, 0, COPY_LEN);
	ret = pdma_copy_wait_with(&chan, id, iova + COPY_DST, iova + COPY_SRC,
				  COPY_LEN);
	if (!ret && memcmp(buf + COPY_SRC, buf + COPY_DST, COPY_LEN))
		return -EILSEQ;
	return ret;
}

static int actor_stream(__u32 d, __u32 c, __u32 id)
{
	struct pdma_dev chan = pdma_channel(&self.dev[d], c);
	int ret = pdma_stream_with(&chan, id, IOVA + c * BUF_LEN, STREAM_LEN, 0,
				   0);

	return ret ? ret : pdma_wait_counter(&chan, 1);
}

static int actor_stop(__u32 d, __u32 c)
{
	struct pdma_dev chan = pdma_channel(&self.dev[d], c);

	return pdma_stop(&chan);
}

/* List up to @count IOASIDs from ID @start into @val. Returns their number. */
static int actor_list(__u32 d, __u32 start, __u32 count, __u32 *val)
{
	struct vfio_device_ioasid entries[MAX_BATCH];
	int i, ret = pdma_list_ioasids(&self.dev[d], start, count, entries);

	for (i = 0; i < ret; i++) {
		if (entries[i].flags != VFIO_DEVICE_IOASID_ATTACHED ||
		    entries[i].__reserved)
			return -EILSEQ;
		val[2 * i] = entries[i].id;
		val[2 * i + 1] = entries[i].state;
	}
	return ret;
}

/* ID and state mapped at each guest PASID, or 0 */
static int actor_maps(__u32 v, __u32 *val)
{
	struct kvm_ioasid_entry entries[NR_GUEST + 1];
	__u32 i, count = NR_GUEST + 1;
	int ret = kvm_ioasid_get(self.vm_dev[v], 0, &count, entries);

	for (i = 0; !ret && i < count; i++) {
		if (entries[i].guest_pasid >= NR_GUEST)
			return -ERANGE;
		val[2 * entries[i].guest_pasid] = entries[i].id;
		val[2 * entries[i].guest_pasid + 1] = entries[i].state;
	}
	return ret;
}

static int actor_vm_open(__u32 v)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int ret;

	if (kvm < 0)
		return -errno;
	self.vm[v] = ioctl(kvm, KVM_CREATE_VM, 0);
	ret = self.vm[v] < 0 ? -errno : kvm_ioasid_create(self.vm[v]);
	close(kvm);
	if (ret < 0)
		return ret;
	self.vm_dev[v] = ret;
	return 0;
}

static int actor_info(int fd, __u32 *val)
{
	struct ioasid_info info;
	int ret = ioasid_get_info(fd, &info);

	val[0] = info.quota;
	val[1] = info.active;
	val[2] = info.parked;
	return ret;
}

static int actor_query(int fd, __u32 id, __u32 *val)
{
	struct ioasid_query query;
	int ret = ioasid_query(fd, id, &query);

	val[0] = query.state;
	val[1] = query.users;
	val[2] = query.attachments;
	return ret;
}

static int actor_do(const struct msg *m, __u32 *val)
{
	const __u32 *a = m->arg;
	__u32 twice[2];
	int ret;

	switch (m->code) {
	case OP_FORK:
		return actor_fork(a[0], val);
	case OP_EXEC:
		actor_exec();
		return -EINVAL;
	case OP_EXIT:
		_exit(0);
	case OP_OPEN:
		self.file[a[0]] = ioasid_open();
		return self.file[a[0]] < 0 ? self.file[a[0]] : 0;
	case OP_CLOSE:
		ret = close(self.file[a[0]]) ? -errno : 0;
		self.file[a[0]] = -1;
		return ret;
	case OP_DUP:
		return actor_dup(a[0]);
	case OP_PASS:
		return send_fd(FD_SOCK + self.nr, self.file[a[0]]);
	case MSG_RECEIVE:
		self.file[a[0]] = receive_fd(FD_SOCK + self.nr);
		return self.file[a[0]] < 0 ? self.file[a[0]] : 0;
	case OP_ALLOC:
		return ioasid_alloc(file_fd(a[0]), a[1], a[2], a[3], val);
	case OP_FREE:
		twice[0] = a[1];
		twice[1] = a[1];
		return ioasid_free(file_fd(a[0]), a[2] ? 2 : 1, twice);
	case OP_QUERY:
		return actor_query(file_fd(a[0]), a[1], val);
	case OP_INFO:
		return actor_info(file_fd(a[0]), val);
	case OP_QUOTA:
		return ioasid_set_quota(file_fd(a[0]), a[1]);
	case OP_DEV_OPEN:
		ret = pdma_open_cdev(&self.dev[a[0]], shared->uuid[a[0]], NULL);
		return ret ? ret : pdma_map(&self.dev[a[0]], dev_buf(a[0]),
					    IOVA, DEV_BUF_LEN);
	case OP_DEV_CLOSE:
		pdma_close(&self.dev[a[0]]);
		return 0;
	case OP_DEV_ADD:
		return pdma_add_ioasid(&self.dev[a[0]], file_fd(a[1]), a[2]);
	case OP_DEV_REPLACE:
		return pdma_replace_ioasid(&self.dev[a[0]], file_fd(a[1]),
					   a[2], a[3]);
	case OP_DEV_DROP:
		return pdma_drop_ioasid(&self.dev[a[0]], a[1]);
	case OP_DEV_DROP_ALL:
		return pdma_drop_all_ioasids(&self.dev[a[0]]);
	case OP_DEV_LIST:
		return actor_list(a[0], a[1], a[2], val);
	case OP_COPY:
		return actor_copy(a[0], a[1], a[2]);
	case OP_STREAM:
		return actor_stream(a[0], a[1], a[2]);
	case OP_STOP:
		return actor_stop(a[0], a[1]);
	case OP_VM_OPEN:
		return actor_vm_open(a[0]);
	case OP_VM_CLOSE:
		close(self.vm_dev[a[0]]);
		ret = close(self.vm[a[0]]) ? -errno : 0;
		self.vm[a[0]] = -1;
		self.vm_dev[a[0]] = -1;
		return ret;
	case OP_ADD:
		return kvm_ioasid_add(self.vm_dev[a[0]], file_fd(a[2]), a[3],
				      a[1]);
	case OP_REPLACE:
		return kvm_ioasid_replace(self.vm_dev[a[0]], file_fd(a[2]),
					  a[3], a[1]);
	case OP_DEL:
		return kvm_ioasid_del(self.vm_dev[a[0]], a[1]);
	case OP_CLEAR:
		return kvm_ioasid_clear(self.vm_dev[a[0]]);
	case OP_MAPS:
		return actor_maps(a[0], val);
	default:
		return -ENOTTY;
	}
}

static void actor_loop(void)
{
	struct msg m;

	while (read(FD_SOCK + self.nr, &m, sizeof(m)) == sizeof(m)) {
		struct reply reply = {};

		reply.ret = actor_do(&m, reply.val);
		if (write(FD_SOCK + self.nr, &reply, sizeof(reply)) !=
		    sizeof(reply))
			break;
	}
}

/* After exec */
static int actor_main(const char *nr, char *files)
{
	struct reply reply = {};
	int i;

	actor_init(atoi(nr));
	for (i = 0; i < NR_FILES; i++)
		self.file[i] = strtol(files, &files, 10), files++;
	if (write(FD_SOCK + self.nr, &reply, sizeof(reply)) != sizeof(reply))
		return 1;
	actor_loop();
	return 1;
}

/* The model */

struct num {
	int state;	/* enum ioasid_state, or 0 if unused */
	__u32 id;	/* kept after recycling */
	int file;	/* -1: closed */
	int account;
	int group;
};

static struct {
	struct {
		pid_t pid;	/* 0: does not exist */
		int group;
	} proc[NR_PROCS];
	struct {
		unsigned int procs;	/* processes that have it open */
		int account;
	} file[NR_FILES];
	struct num num[NR_NUMS];
	struct {
		int proc;	/* process that has it open, or -1 */
		bool holds[NR_NUMS];
		int stream[NR_CHANS];	/* slot of its IOASID, or -1 */
	} dev[NR_DEVS];
	struct {
		int proc;
		int num[NR_GUEST];
	} vm[NR_VMS];
	__u32 quota[NR_ACCOUNTS];
	__u32 limit[NR_GROUPS];
} model;

/* The driver's sockets to the actors */
static int sock_of[NR_PROCS];

static char why[256];

/*
 * Successful operations; streams that ended because their IOASID was parked or
 * dropped; and how often another stream was checked to continue after that
 */
static unsigned long succeeded, cut_off, went_on;
/* DMA must just have ended: check that it has, and that no other DMA has */
static bool settle;

static bool fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (!why[0])
		vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	return false;
}

static void model_init(void)
{
	int i, j;

	memset(&model, 0, sizeof(model));
	for (i = 0; i < NR_DEVS; i++) {
		model.dev[i].proc = -1;
		for (j = 0; j < NR_CHANS; j++)
			model.dev[i].stream[j] = -1;
	}
	for (i = 0; i < NR_VMS; i++) {
		model.vm[i].proc = -1;
		for (j = 0; j < NR_GUEST; j++)
			model.vm[i].num[j] = -1;
	}
	for (i = 0; i < NR_GROUPS; i++)
		model.limit[i] = NO_LIMIT;
}

static bool has_file(int p, int f)
{
	return model.file[f].procs & (1 << p);
}

static int new_account(void)
{
	bool used[NR_ACCOUNTS] = {};
	int i;

	for (i = 0; i < NR_FILES; i++)
		if (model.file[i].procs)
			used[model.file[i].account] = true;
	for (i = 0; i < NR_NUMS; i++)
		if (model.num[i].state)
			used[model.num[i].account] = true;
	for (i = 0; used[i]; i++)
		;
	model.quota[i] = DEFAULT_QUOTA;
	return i;
}

static unsigned int num_devs(int n)
{
	unsigned int i, count = 0;

	for (i = 0; i < NR_DEVS; i++)
		count += model.dev[i].holds[n];
	return count;
}

static unsigned int num_users(int n)
{
	unsigned int i, j, count = num_devs(n);

	for (i = 0; i < NR_VMS; i++)
		for (j = 0; j < NR_GUEST; j++)
			count += model.vm[i].num[j] == n;
	return count;
}

static unsigned int count_account(int account, int state)
{
	unsigned int i, count = 0;

	for (i = 0; i < NR_NUMS; i++)
		count += model.num[i].state && model.num[i].account == account &&
			 (!state || model.num[i].state == state);
	return count;
}

static unsigned int count_group(int group)
{
	unsigned int i, count = 0;

	for (i = 0; i < NR_NUMS; i++)
		count += model.num[i].state && model.num[i].group == group;
	return count;
}

static unsigned int count_window(void)
{
	unsigned int i, count = 0;

	for (i = 0; i < NR_NUMS; i++)
		count += model.num[i].state && model.num[i].id >= WINDOW &&
			 model.num[i].id < WINDOW + WINDOW_LEN;
	return count;
}

/* The slot of the IOASID of file @f with the ID stored in slot @n, or -1 */
static int find_num(int f, int n)
{
	int i;

	for (i = 0; i < NR_NUMS; i++)
		if (model.num[i].state && model.num[i].file == f &&
		    model.num[i].id == model.num[n].id)
			return i;
	return -1;
}

static void put_num(int n)
{
	if (n >= 0 && model.num[n].state == IOASID_STATE_PARKED &&
	    !num_users(n))
		model.num[n].state = 0;
}

/* Whether the stream should be arriving */
static bool arrives(int d, int c)
{
	int n = model.dev[d].stream[c];

	return n >= 0 && model.num[n].state == IOASID_STATE_ACTIVE;
}

/* A call that ends all DMA of device @d with slot @n has returned */
static void cut_off_streams(int d, int n)
{
	int c;

	for (c = 0; c < NR_CHANS; c++) {
		if (model.dev[d].stream[c] == n) {
			cut_off += arrives(d, c);
			poison_stream(chan_buf(d, c));
		}
	}
	settle = true;
}

static void park_num(int n)
{
	int i;

	for (i = 0; i < NR_DEVS; i++)
		if (model.dev[i].holds[n])
			cut_off_streams(i, n);
	model.num[n].state = IOASID_STATE_PARKED;
	put_num(n);
}

static void end_stream(int d, int c)
{
	model.dev[d].stream[c] = -1;
	poison_stream(chan_buf(d, c));
	settle = true;
}

static void drop_num(int d, int n)
{
	int c;

	cut_off_streams(d, n);
	for (c = 0; c < NR_CHANS; c++)
		if (model.dev[d].stream[c] == n)
			model.dev[d].stream[c] = -1;
	model.dev[d].holds[n] = false;
	put_num(n);
}

static void drop_all_nums(int d)
{
	int n;

	for (n = 0; n < NR_NUMS; n++)
		if (model.dev[d].holds[n])
			drop_num(d, n);
}

static void close_dev(int d)
{
	drop_all_nums(d);
	model.dev[d].proc = -1;
}

static void set_guest(int v, int g, int n)
{
	int old = model.vm[v].num[g];

	model.vm[v].num[g] = n;
	put_num(old);
}

/* Whether the kernel has the expected number of users of slot @n */
static bool users_agree(int n, __u32 id)
{
	struct ioasid_row row;
	int ret = debugfs_ioasid(id, &row);

	if (!model.num[n].state)
		return ret == -ENOENT;
	return !ret && row.users == num_users(n);
}

/* KVM drops the reference of a mapping after a grace period */
static bool wait_put(int n, __u32 id)
{
	if (!wait_until(users_agree(n, id)))
		return fail("number %u: a deleted mapping holds it", id);
	return true;
}

static void close_vm(int v)
{
	int g;

	for (g = 0; g < NR_GUEST; g++)
		set_guest(v, g, -1);
	model.vm[v].proc = -1;
}

static void close_file(int p, int f)
{
	int n;

	model.file[f].procs &= ~(1 << p);
	if (model.file[f].procs)
		return;
	for (n = 0; n < NR_NUMS; n++) {
		if (!model.num[n].state || model.num[n].file != f)
			continue;
		model.num[n].file = -1;
		if (model.num[n].state == IOASID_STATE_ACTIVE)
			park_num(n);
	}
}

/* Resources closed by exec; exit also closes the files */
static void drop_users(int p)
{
	int i;

	for (i = 0; i < NR_DEVS; i++)
		if (model.dev[i].proc == p)
			close_dev(i);
	for (i = 0; i < NR_VMS; i++)
		if (model.vm[i].proc == p)
			close_vm(i);
}

static void drop_proc(int p)
{
	int i;

	for (i = 0; i < NR_FILES; i++)
		if (has_file(p, i))
			close_file(p, i);
	drop_users(p);
	model.proc[p].pid = 0;
}

/* The driver process */

static bool receive(int p, struct reply *reply)
{
	struct pollfd pfd = { .fd = sock_of[p], .events = POLLIN };

	if (poll(&pfd, 1, REPLY_MS) != 1)
		return fail("actor %d does not answer", p);
	if (read(sock_of[p], reply, sizeof(*reply)) != sizeof(*reply))
		return fail("actor %d is gone", p);
	return true;
}

static bool ask(int p, struct reply *reply, __u32 code, __u32 a, __u32 b,
		__u32 c, __u32 d)
{
	struct msg m = { .code = code, .arg = { a, b, c, d } };

	if (write(sock_of[p], &m, sizeof(m)) != sizeof(m))
		return fail("actor %d takes no message", p);
	return receive(p, reply);
}

static bool expect(int wanted, const struct reply *reply)
{
	succeeded += !wanted;
	if (reply->ret != wanted)
		return fail("answered %d, the model says %d", reply->ret,
			    wanted);
	return true;
}

static bool do_simple(int p, int wanted, __u32 code, __u32 a, __u32 b, __u32 c,
		      __u32 d)
{
	struct reply reply;

	return ask(p, &reply, code, a, b, c, d) && expect(wanted, &reply);
}

static bool enter_group(pid_t pid, int g)
{
	char val[16];

	if (!env.cgroup)
		return true;
	snprintf(val, sizeof(val), "%d", pid);
	if (group_write(env.group[g], "cgroup.procs", val))
		return fail("cannot move a process");
	return true;
}

static bool do_start(int p)
{
	struct reply reply;
	pid_t pid = fork();

	if (pid < 0)
		return fail("no process");
	if (!pid) {
		actor_init(p);
		reply = (struct reply){};
		if (write(FD_SOCK + p, &reply, sizeof(reply)) == sizeof(reply))
			actor_loop();
		_exit(1);
	}
	model.proc[p].pid = pid;
	model.proc[p].group = p % NR_GROUPS;
	return receive(p, &reply) && expect(0, &reply) &&
	       enter_group(pid, model.proc[p].group);
}

static bool do_fork(int p, int q)
{
	struct reply reply, begun;
	int i;

	if (!ask(p, &reply, OP_FORK, q, 0, 0, 0) || !expect(0, &reply))
		return false;
	model.proc[q].pid = reply.val[0];
	model.proc[q].group = model.proc[p].group;
	for (i = 0; i < NR_FILES; i++)
		if (has_file(p, i))
			model.file[i].procs |= 1 << q;
	return receive(q, &begun) && expect(0, &begun);
}

static bool do_end(int p, bool kill_it)
{
	struct msg m = { .code = OP_EXIT };
	pid_t pid = model.proc[p].pid;

	if (kill_it)
		kill(pid, SIGKILL);
	else if (write(sock_of[p], &m, sizeof(m)) != sizeof(m))
		return fail("actor %d takes no message", p);
	if (waitpid(pid, NULL, 0) != pid)
		return fail("actor %d does not end", p);
	drop_proc(p);
	return true;
}

static bool do_exec(int p)
{
	if (!do_simple(p, 0, OP_EXEC, 0, 0, 0, 0))
		return false;
	drop_users(p);
	return true;
}

/* The driver forwards the descriptor and closes its copy */
static bool do_pass(int p, int f, int q)
{
	struct msg m = { .code = OP_PASS, .arg = { f } };
	struct reply reply;
	int fd, ret;

	if (write(sock_of[p], &m, sizeof(m)) != sizeof(m))
		return fail("actor %d takes no message", p);
	fd = receive_fd(sock_of[p]);
	if (fd < 0 || !receive(p, &reply) || !expect(0, &reply))
		return fail("actor %d passes nothing", p);
	m.code = MSG_RECEIVE;
	ret = write(sock_of[q], &m, sizeof(m)) == sizeof(m) ?
		      send_fd(sock_of[q], fd) : -EIO;
	close(fd);
	if (ret || !receive(q, &reply) || !expect(0, &reply))
		return fail("actor %d receives nothing", q);
	model.file[f].procs |= 1 << q;
	return true;
}

static int alloc_errno(int p, int f, __u32 min, __u32 max, __u32 count)
{
	int group = model.proc[p].group;

	if (!has_file(p, f))
		return -EBADF;
	if (min > max || max > 0xfffff || !count ||
	    (max && count > max - min + 1))
		return -EINVAL;
	if (count_account(model.file[f].account, 0) + count >
	    model.quota[model.file[f].account])
		return -EDQUOT;
	if (env.cgroup && count_group(group) + count > model.limit[group])
		return -EDQUOT;
	if (max && count_window() + count > WINDOW_LEN)
		return -ENOSPC;
	return 0;
}

static bool take_num(int p, int f, __u32 id, __u32 min, __u32 max)
{
	int i, n = -1;

	if (!id || id > 0xfffff || (max && (id < min || id > max)))
		return fail("number %u is out of range", id);
	for (i = 0; i < NR_NUMS; i++) {
		if (!model.num[i].state)
			n = n < 0 ? i : n;
		else if (model.num[i].id == id)
			return fail("number %u has a holder already", id);
	}
	model.num[n] = (struct num){
		.state = IOASID_STATE_ACTIVE, .id = id, .file = f,
		.account = model.file[f].account, .group = model.proc[p].group,
	};
	return true;
}

static bool do_alloc(int p, int f, __u32 range, __u32 count)
{
	__u32 min = 0, max = 0, i, room = 0;
	struct reply reply;
	int wanted;

	if (range % 3 == 1) {
		min = WINDOW;
		max = WINDOW + WINDOW_LEN - 1;
	} else if (range == 5) {
		min = WINDOW + 1;
		max = WINDOW;
	} else if (range == 8) {
		min = WINDOW;
		max = 0x100000;
	}
	for (i = 0; i < NR_NUMS; i++)
		room += !model.num[i].state;
	if (room < count)
		return true;
	wanted = alloc_errno(p, f, min, max, count);
	if (!ask(p, &reply, OP_ALLOC, f, min, max, count) ||
	    !expect(wanted, &reply))
		return false;
	for (i = 0; !wanted && i < count; i++)
		if (!take_num(p, f, reply.val[i], min, max))
			return false;
	return true;
}

static bool do_free(int p, int f, int n, bool twice)
{
	int found = find_num(f, n), wanted = 0;

	if (!has_file(p, f))
		wanted = -EBADF;
	else if (twice || found < 0 ||
		 model.num[found].state != IOASID_STATE_ACTIVE)
		wanted = -ENOENT;
	if (!do_simple(p, wanted, OP_FREE, f, model.num[n].id, twice, 0))
		return false;
	if (!wanted)
		park_num(found);
	return true;
}

static bool do_query(int p, int f, int n)
{
	int found = find_num(f, n);
	struct reply reply;

	if (!has_file(p, f))
		return do_simple(p, -EBADF, OP_QUERY, f, model.num[n].id, 0, 0);
	/* Recycling is deferred */
	if (found < 0) {
		if (!wait_until(!ask(p, &reply, OP_QUERY, f, model.num[n].id, 0,
				     0) || reply.ret == -ENOENT))
			return fail("number %u is not recycled",
				    model.num[n].id);
		return !why[0];
	}
	if (!ask(p, &reply, OP_QUERY, f, model.num[n].id, 0, 0) ||
	    !expect(0, &reply))
		return false;
	if (reply.val[0] != model.num[found].state ||
	    reply.val[1] != num_users(found) ||
	    reply.val[2] != num_devs(found))
		return fail("number %u: state, users, attachments %u %u %u, not %u %u %u",
			    model.num[n].id, reply.val[0], reply.val[1],
			    reply.val[2], model.num[found].state,
			    num_users(found), num_devs(found));
	return true;
}

static bool do_info(int p, int f)
{
	int account = model.file[f].account;
	struct reply reply;
	__u32 active, parked;

	if (!has_file(p, f))
		return do_simple(p, -EBADF, OP_INFO, f, 0, 0, 0);
	active = count_account(account, IOASID_STATE_ACTIVE);
	parked = count_account(account, IOASID_STATE_PARKED);
	wait_until(!ask(p, &reply, OP_INFO, f, 0, 0, 0) || reply.ret ||
		   reply.val[2] == parked);
	if (why[0] || !expect(0, &reply))
		return false;
	if (reply.val[0] != model.quota[account] || reply.val[1] != active ||
	    reply.val[2] != parked)
		return fail("file: quota, active, parked %u %u %u, the model says %u %u %u",
			    reply.val[0], reply.val[1], reply.val[2],
			    model.quota[account], active, parked);
	return true;
}

/* The errno for a user of file @f and slot @n. @found: the slot, or -1 */
static int user_errno(int p, int f, int n, int *found)
{
	*found = find_num(f, n);
	if (!has_file(p, f))
		return -EBADF;
	if (*found < 0)
		return -ENOENT;
	return model.num[*found].state == IOASID_STATE_ACTIVE ? 0 : -ESHUTDOWN;
}

/* If no slot was @found, the IOASID may still be PARKED for a moment */
static bool expect_user(int wanted, int found, const struct reply *reply)
{
	if (wanted == -ENOENT && found < 0 && reply->ret == -ESHUTDOWN)
		return true;
	return expect(wanted, reply);
}

/* The slot that device @d holds with the ID stored in slot @n, or -1 */
static int find_held(int d, int n)
{
	int i;

	for (i = 0; i < NR_NUMS; i++)
		if (model.dev[d].holds[i] &&
		    model.num[i].id == model.num[n].id)
			return i;
	return -1;
}

/* The errno for adding slot @n, which is ACTIVE, to device @d */
static int hold_errno(int d, int n)
{
	int i;

	if (model.dev[d].holds[n])
		return -EEXIST;
	for (i = d % 2; i < NR_DEVS; i += 2)
		if (model.dev[i].holds[n])
			return -EBUSY;
	return 0;
}

static bool do_dev_add(int p, int d, int f, int n)
{
	int found, wanted = user_errno(p, f, n, &found);
	struct reply reply;

	if (!wanted)
		wanted = hold_errno(d, found);
	if (!ask(p, &reply, OP_DEV_ADD, d, f, model.num[n].id, 0) ||
	    !expect_user(wanted, found, &reply))
		return false;
	if (!wanted)
		model.dev[d].holds[found] = true;
	return true;
}

static bool do_dev_replace(int p, int d, int f, int n, int old)
{
	int found, held = find_held(d, old);
	int wanted = user_errno(p, f, n, &found);
	struct reply reply;

	if (!wanted && held < 0)
		wanted = -ENOENT;
	else if (!wanted && held != found)
		wanted = hold_errno(d, found);
	if (!ask(p, &reply, OP_DEV_REPLACE, d, f, model.num[n].id,
		 model.num[old].id) ||
	    !expect_user(wanted, found, &reply))
		return false;
	if (wanted || held == found)
		return true;
	model.dev[d].holds[found] = true;
	drop_num(d, held);
	return true;
}

static bool do_dev_drop(int p, int d, int n)
{
	int held = find_held(d, n);

	if (!do_simple(p, held < 0 ? -ENOENT : 0, OP_DEV_DROP, d,
		       model.num[n].id, 0, 0))
		return false;
	if (held >= 0)
		drop_num(d, held);
	return true;
}

/* The slot with the smallest ID >= @start that device @d holds, or -1 */
static int next_held(int d, __u32 start)
{
	int i, n = -1;

	for (i = 0; i < NR_NUMS; i++)
		if (model.dev[d].holds[i] && model.num[i].id >= start &&
		    (n < 0 || model.num[i].id < model.num[n].id))
			n = i;
	return n;
}

/* @next: where to continue */
static bool do_dev_list(int p, int d, __u32 start, int count, __u32 *next)
{
	struct reply reply;
	int i, n;

	if (!ask(p, &reply, OP_DEV_LIST, d, start, count, 0))
		return false;
	for (i = 0; i < count; i++) {
		n = next_held(d, start);
		if (n < 0)
			break;
		if (i >= reply.ret || reply.val[2 * i] != model.num[n].id ||
		    reply.val[2 * i + 1] != model.num[n].state)
			return fail("device %d: %d of %d listed, %d is not number %u, state %u",
				    d, reply.ret, count, i, model.num[n].id,
				    model.num[n].state);
		start = model.num[n].id + 1;
	}
	*next = start;
	return reply.ret == i ? true :
		       fail("device %d: %d of %d are listed, the model says %d",
			    d, reply.ret, count, i);
}

static bool check_list(int d)
{
	__u32 start = 0;
	bool more;

	do {
		more = next_held(d, start) >= 0;
		if (!do_dev_list(model.dev[d].proc, d, start, MAX_BATCH,
				 &start))
			return false;
	} while (more);
	return true;
}

/* Start a command on channel @c with the PASID stored in slot @n */
static bool do_start_dma(int p, __u32 code, int d, int n, int c)
{
	int held = find_held(d, n), wanted = 0;

	if (held < 0)
		wanted = -ENXIO;
	else if (model.num[held].state != IOASID_STATE_ACTIVE)
		wanted = -ESHUTDOWN;
	else if (model.dev[d].stream[c] >= 0)
		wanted = -EBUSY;
	if (!do_simple(p, wanted, code, d, c, model.num[n].id, 0))
		return false;
	if (code == OP_STREAM && !wanted)
		model.dev[d].stream[c] = held;
	return true;
}

static bool do_add(const struct op *op, int p, int v, int g)
{
	int f = op->arg[2] % NR_FILES, n = op->arg[3] % NR_NUMS;
	int found, old = model.vm[v].num[g], wanted;
	struct reply reply;

	wanted = user_errno(p, f, n, &found);
	if (!wanted && op->code == OP_ADD && old >= 0)
		wanted = -EEXIST;
	if (!ask(p, &reply, op->code, v, g, f, model.num[n].id) ||
	    !expect_user(wanted, found, &reply))
		return false;
	if (wanted)
		return true;
	set_guest(v, g, found);
	return old < 0 || wait_put(old, model.num[old].id);
}

static bool do_clear(int p, int v)
{
	int g, old[NR_GUEST];

	if (!do_simple(p, 0, OP_CLEAR, v, 0, 0, 0))
		return false;
	for (g = 0; g < NR_GUEST; g++) {
		old[g] = model.vm[v].num[g];
		set_guest(v, g, -1);
	}
	for (g = 0; g < NR_GUEST; g++)
		if (old[g] >= 0 && !wait_put(old[g], model.num[old[g]].id))
			return false;
	return true;
}

static bool do_maps(int p, int v)
{
	struct reply reply;
	int g, n;

	if (!ask(p, &reply, OP_MAPS, v, 0, 0, 0) || !expect(0, &reply))
		return false;
	for (g = 0; g < NR_GUEST; g++) {
		n = model.vm[v].num[g];
		if (reply.val[2 * g] != (n < 0 ? 0 : model.num[n].id) ||
		    reply.val[2 * g + 1] != (n < 0 ? 0 : model.num[n].state))
			return fail("guest PASID %d: number %u, state %u, not those of the model",
				    g, reply.val[2 * g], reply.val[2 * g + 1]);
	}
	return true;
}

static bool do_limit(int g, __u32 limit)
{
	char val[32];

	snprintf(val, sizeof(val), "ioasid %u", limit);
	if (group_write(env.group[g], "misc.max", val))
		return fail("cannot set the limit of a group");
	model.limit[g] = limit;
	return true;
}

static bool do_reset(int e)
{
	int d, c;

	if (pci_reset(env.engine[e]))
		return fail("cannot reset %s", env.engine[e]);
	for (d = e; d < NR_DEVS; d += 2)
		for (c = 0; c < NR_CHANS; c++)
			end_stream(d, c);
	return true;
}

static bool do_dev(const struct op *op, int p, int d)
{
	int n = op->arg[1] % NR_NUMS, c;
	__u32 next;

	if (op->code == OP_DEV_OPEN ? model.dev[d].proc >= 0 :
				      model.dev[d].proc != p)
		return true;
	switch (op->code) {
	case OP_DEV_ADD:
		return do_dev_add(p, d, op->arg[1] % NR_FILES,
				  op->arg[2] % NR_NUMS);
	case OP_DEV_REPLACE:
		return do_dev_replace(p, d, op->arg[1] % NR_FILES,
				      op->arg[2] % NR_NUMS,
				      op->arg[3] % NR_NUMS);
	case OP_DEV_DROP:
		return do_dev_drop(p, d, n);
	case OP_DEV_LIST:
		return do_dev_list(p, d, model.num[n].id,
				   op->arg[2] % (MAX_BATCH + 1), &next);
	case OP_COPY:
	case OP_STREAM:
		return do_start_dma(p, op->code, d, n, op->arg[2] % NR_CHANS);
	}
	c = op->arg[1] % NR_CHANS;
	if (!do_simple(p, 0, op->code, d, c, 0, 0))
		return false;
	if (op->code == OP_DEV_OPEN)
		model.dev[d].proc = p;
	else if (op->code == OP_DEV_CLOSE)
		close_dev(d);
	else if (op->code == OP_DEV_DROP_ALL)
		drop_all_nums(d);
	else
		end_stream(d, c);
	return true;
}

static bool do_vm(const struct op *op, int p, int v)
{
	int g = op->arg[1] % NR_GUEST, wanted = 0, n;

	if (op->code == OP_VM_OPEN ? model.vm[v].proc >= 0 :
				     model.vm[v].proc != p)
		return true;
	switch (op->code) {
	case OP_ADD:
	case OP_REPLACE:
		return do_add(op, p, v, g);
	case OP_CLEAR:
		return do_clear(p, v);
	case OP_MAPS:
		return do_maps(p, v);
	}
	if (op->code == OP_DEL && model.vm[v].num[g] < 0)
		wanted = -ENOENT;
	if (!do_simple(p, wanted, op->code, v, g, 0, 0))
		return false;
	if (op->code == OP_VM_OPEN)
		model.vm[v].proc = p;
	else if (op->code == OP_VM_CLOSE)
		close_vm(v);
	else if (!wanted) {
		n = model.vm[v].num[g];
		set_guest(v, g, -1);
		return wait_put(n, model.num[n].id);
	}
	return true;
}

/* Mostly choose arguments that exist. 0: do not adjust the argument */
#define SOMETIMES(arg) ((arg) / 32 % 8)

/* Choose slot @arg among the IOASIDs of @p's files, and its file */
static void aim_num(int p, __u32 *f, __u32 *n)
{
	int i, count = 0, slot[NR_NUMS];

	for (i = 0; i < NR_NUMS; i++)
		if (model.num[i].state && model.num[i].file >= 0 &&
		    has_file(p, model.num[i].file))
			slot[count++] = i;
	if (!count || !SOMETIMES(*n))
		return;
	*n = slot[*n % count];
	*f = model.num[*n].file;
}

/* Choose slot @arg among those that device @d holds */
static void aim_held(int d, __u32 *n)
{
	int i, count = 0, slot[NR_NUMS];

	for (i = 0; i < NR_NUMS; i++)
		if (model.dev[d].holds[i])
			slot[count++] = i;
	if (count && SOMETIMES(*n))
		*n = slot[*n % count];
}

static void aim_file(int p, __u32 *f)
{
	int i, count = 0, slot[NR_FILES];

	for (i = 0; i < NR_FILES; i++)
		if (has_file(p, i))
			slot[count++] = i;
	if (count && SOMETIMES(*f))
		*f = slot[*f % count];
}

static void aim_proc(__u32 *p)
{
	int i, count = 0, slot[NR_PROCS];

	for (i = 0; i < NR_PROCS; i++)
		if (model.proc[i].pid)
			slot[count++] = i;
	if (count)
		*p = slot[*p % count];
}

/* Must depend only on the preceding operations */
static void aim(struct op *op)
{
	int owner = -1, d = op->arg[0] % NR_DEVS;

	if (op->code == OP_START)
		return;
	aim_proc(&op->p);
	if (op->code > OP_DEV_OPEN && op->code <= OP_STOP)
		owner = model.dev[d].proc;
	else if (op->code > OP_VM_OPEN && op->code <= OP_MAPS)
		owner = model.vm[op->arg[0] % NR_VMS].proc;
	if (owner >= 0)
		op->p = owner;

	switch (op->code) {
	case OP_FREE:
	case OP_QUERY:
		aim_num(op->p % NR_PROCS, &op->arg[0], &op->arg[1]);
		break;
	case OP_DEV_REPLACE:
		aim_held(d, &op->arg[3]);
		/* fallthrough */
	case OP_DEV_ADD:
		aim_num(op->p % NR_PROCS, &op->arg[1], &op->arg[2]);
		break;
	case OP_DEV_DROP:
	case OP_DEV_LIST:
	case OP_COPY:
	case OP_STREAM:
		aim_held(d, &op->arg[1]);
		break;
	case OP_ADD:
	case OP_REPLACE:
		aim_num(op->p % NR_PROCS, &op->arg[2], &op->arg[3]);
		break;
	case OP_CLOSE ... OP_ALLOC:
	case OP_INFO:
	case OP_QUOTA:
		aim_file(op->p % NR_PROCS, &op->arg[0]);
		break;
	}
}

static bool do_op(const struct op *drawn)
{
	struct op aimed = *drawn, *op = &aimed;
	int p, f, q, g, d;

	aim(op);
	p = op->p % NR_PROCS;
	f = op->arg[0] % NR_FILES;
	q = op->arg[0] % NR_PROCS;
	g = op->arg[0] % NR_GROUPS;
	switch (op->code) {
	case OP_START:
		return model.proc[p].pid ? true : do_start(p);
	case OP_LIMIT:
		return env.cgroup ? do_limit(g, op->arg[1]) : true;
	case OP_RESET:
		return g < env.engines ? do_reset(g) : true;
	case OP_RECLAIM:
		pdma_write_file("/proc/sys/vm/drop_caches", "3");
		pdma_write_file("/proc/sys/vm/compact_memory", "1");
		return true;
	}
	if (!model.proc[p].pid)
		return true;
	switch (op->code) {
	case OP_FORK:
		return model.proc[q].pid ? true : do_fork(p, q);
	case OP_EXEC:
		return do_exec(p);
	case OP_EXIT:
	case OP_KILL:
		return do_end(p, op->code == OP_KILL);
	case OP_MOVE:
		model.proc[p].group = g;
		return enter_group(model.proc[p].pid, g);
	case OP_OPEN:
		if (model.file[f].procs)
			return true;
		model.file[f].account = new_account();
		model.file[f].procs = 1 << p;
		return do_simple(p, 0, OP_OPEN, f, 0, 0, 0);
	case OP_CLOSE:
		if (!has_file(p, f))
			return true;
		if (!do_simple(p, 0, OP_CLOSE, f, 0, 0, 0))
			return false;
		close_file(p, f);
		return true;
	case OP_DUP:
		return has_file(p, f) ?
			       do_simple(p, 0, OP_DUP, f, 0, 0, 0) : true;
	case OP_PASS:
		q = op->arg[1] % NR_PROCS;
		if (!has_file(p, f) || !model.proc[q].pid || has_file(q, f))
			return true;
		return do_pass(p, f, q);
	case OP_ALLOC:
		return do_alloc(p, f, op->arg[1] % 9,
				op->arg[2] % (MAX_BATCH + 1));
	case OP_FREE:
		return do_free(p, f, op->arg[1] % NR_NUMS,
			       !(op->arg[2] % 16));
	case OP_QUERY:
		return do_query(p, f, op->arg[1] % NR_NUMS);
	case OP_INFO:
		return do_info(p, f);
	case OP_QUOTA:
		if (!do_simple(p, has_file(p, f) ? 0 : -EBADF, OP_QUOTA, f,
			       op->arg[1], 0, 0))
			return false;
		if (has_file(p, f))
			model.quota[model.file[f].account] = op->arg[1];
		return true;
	case OP_DEV_OPEN ... OP_STOP:
		d = op->arg[0] % NR_DEVS;
		return (unsigned int)d % 2 < env.engines ? do_dev(op, p, d) :
							   true;
	case OP_VM_OPEN ... OP_MAPS:
		return env.kvm ? do_vm(op, p, op->arg[0] % NR_VMS) : true;
	default:
		return fail("unknown operation");
	}
}

/* Nothing arrives from streams that have ended; all others are running */
static bool check_streams(void)
{
	int d, c;

	if (settle)
		usleep(SETTLE_US);
	for (d = 0; d < NR_DEVS; d++) {
		for (c = 0; c < NR_CHANS; c++) {
			if (!arrives(d, c) &&
			    !stream_is_poison(chan_buf(d, c)))
				return fail("device %d, channel %d: DMA goes on",
					    d, c);
			if (!settle || !arrives(d, c))
				continue;
			poison_stream(chan_buf(d, c));
			if (!wait_until(!stream_is_poison(chan_buf(d, c))))
				return fail("device %d, channel %d: the stream has ended",
					    d, c);
			went_on++;
		}
	}
	settle = false;
	return true;
}

static bool check_groups(void)
{
	long long got;
	int g;

	for (g = 0; env.cgroup && g < NR_GROUPS; g++) {
		got = wait_current(env.group[g], count_group(g));
		if (got != count_group(g))
			return fail("group %d: %lld are charged, the model says %u",
				    g, got, count_group(g));
	}
	return true;
}

/* Compare everything that can be queried */
static bool check_all(void)
{
	int p, f, n, d;

	for (d = 0; d < NR_DEVS; d++)
		if (model.dev[d].proc >= 0 && !check_list(d))
			return false;
	for (f = 0; f < NR_FILES; f++) {
		if (!model.file[f].procs)
			continue;
		p = __builtin_ctz(model.file[f].procs);
		if (!do_info(p, f))
			return false;
		for (n = 0; n < NR_NUMS; n++)
			if (model.num[n].state && model.num[n].file == f &&
			    !do_query(p, f, n))
				return false;
	}
	return check_groups();
}

static bool check_end(void)
{
	int p, n;

	for (p = 0; p < NR_PROCS; p++)
		if (model.proc[p].pid && !do_end(p, false))
			return false;
	for (n = 0; n < NR_NUMS; n++)
		if (model.num[n].state)
			return fail("the model holds number %u for ever",
				    model.num[n].id);
	return check_groups();
}

/* Kill the actors of a failed sequence, and reset the limits */
static void clean_up(void)
{
	struct reply drain;
	int i;

	for (i = 0; i < NR_PROCS; i++) {
		if (model.proc[i].pid) {
			kill(model.proc[i].pid, SIGKILL);
			waitpid(model.proc[i].pid, NULL, 0);
		}
		while (recv(sock_of[i], &drain, sizeof(drain),
			    MSG_DONTWAIT) > 0)
			;
		while (recv(FD_SOCK + i, &drain, sizeof(drain),
			    MSG_DONTWAIT) > 0)
			;
	}
	model_init();
	for (i = 0; i < NR_DEVS * NR_CHANS; i++)
		poison_stream(chan_buf(0, i));
	for (i = 0; env.cgroup && i < NR_GROUPS; i++)
		do_limit(i, NO_LIMIT);
}

/*
 * Returns the index of the operation that failed, @count for the final checks,
 * or -1 on success. On failure, why[] is set.
 */
static int run_sequence(const struct op *seq, int count)
{
	__u64 recorded[2] = {};
	bool ok = true;
	int i, e;

	why[0] = 0;
	clean_up();
	for (e = 0; e < (int)env.engines; e++)
		recorded[e] = bar_recorded(&env.bar[e]);
	for (i = 0; ok && i < count; i++) {
		ok = do_op(&seq[i]) && check_streams();
		if (ok && i % CHECK_EVERY == CHECK_EVERY - 1)
			ok = check_all();
		if (!ok)
			break;
	}
	ok = ok && check_all() && check_streams() && check_end();
	for (e = 0; ok && e < (int)env.engines; e++)
		if (bar_recorded(&env.bar[e]) != recorded[e])
			ok = fail("engine %d: a fault was reported", e);
	return ok ? -1 : i;
}

/* Random sequences */

static __u64 rng;

static __u32 rnd(void)
{
	return next_random(&rng);
}

static void make_op(struct op *op)
{
	unsigned int code, sum = 0, pick;
	int i;

	for (code = 0; code < NR_OPS; code++)
		sum += ops[code].weight;
	pick = rnd() % sum;
	for (code = 0; pick >= ops[code].weight; code++)
		pick -= ops[code].weight;
	*op = (struct op){ .code = code, .p = rnd() % 1024 };
	for (i = 0; i < 4; i++)
		op->arg[i] = rnd() % 1024;
	/* Mostly unlimited, otherwise small */
	if (code == OP_QUOTA || code == OP_LIMIT)
		op->arg[1] = rnd() % 4 ? NO_LIMIT : rnd() % 12;
}

static void print_op(const struct op *op)
{
	printf("# op %s %u %u %u %u %u\n", ops[op->code].name, op->p,
	       op->arg[0], op->arg[1], op->arg[2], op->arg[3]);
}

/* Read the operations of a log, with or without "# op "; ignore other lines */
static int read_ops(const char *path, struct op *seq, int max)
{
	char line[256], name[32];
	int code, count = 0;
	struct op op;
	FILE *f = fopen(path, "r");

	if (!f)
		return -errno;
	while (count < max && fgets(line, sizeof(line), f)) {
		const char *text = strncmp(line, "# op ", 5) ? line : line + 5;

		if (sscanf(text, "%31s %u %u %u %u %u", name, &op.p,
			   &op.arg[0], &op.arg[1], &op.arg[2],
			   &op.arg[3]) != 6)
			continue;
		for (code = 0; code < NR_OPS; code++)
			if (!strcmp(name, ops[code].name))
				break;
		if (code == NR_OPS)
			continue;
		op.code = code;
		seq[count++] = op;
	}
	fclose(f);
	return count;
}

/* Delta debugging: remove ever smaller parts as long as the rest still fails */
static int shrink(struct op *seq, int count)
{
	struct op *less = calloc(count, sizeof(*less));
	int part, at, len, at_op, before;

	for (part = count / 2; less && part; ) {
		before = count;
		for (at = 0; at < count; ) {
			len = part < count - at ? part : count - at;
			memcpy(less, seq, at * sizeof(*seq));
			memcpy(less + at, seq + at + len,
			       (count - at - len) * sizeof(*seq));
			at_op = run_sequence(less, count - len);
			if (at_op < 0) {
				at += len;
				continue;
			}
			/* Drop everything after the failure */
			count = at_op < count - len ? at_op + 1 : count - len;
			memcpy(seq, less, count * sizeof(*seq));
		}
		/* Repeat with single operations until none can be removed */
		if (part > 1 || count == before)
			part /= 2;
	}
	free(less);
	return count;
}

static void report_failure(struct op *seq, int count, int at)
{
	int i;

	ksft_print_msg("operation %d: %s\n", at, why);
	if (at < count)
		count = at + 1;
	count = shrink(seq, count);
	at = run_sequence(seq, count);
	ksft_print_msg("shrunk to %d operations, the last replay: %s\n", count,
		       at < 0 ? "did not fail" : why);
	for (i = 0; i < count; i++)
		print_op(&seq[i]);
}

static void setup(void)
{
	int i, sock[2], fd = memfd_create("ioasid_soak", 0);

	if (fd < 0 || ftruncate(fd, MEM_LEN) || dup2(fd, FD_MEM) < 0)
		ksft_exit_fail_msg("no memory\n");
	close(fd);
	mem = mmap(NULL, MEM_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, FD_MEM,
		   0);
	if (mem == MAP_FAILED)
		ksft_exit_fail_msg("no memory\n");
	for (i = 0; i < NR_PROCS; i++) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sock) ||
		    dup2(sock[1], FD_SOCK + i) < 0)
			ksft_exit_fail_msg("no sockets\n");
		close(sock[1]);
		fcntl(sock[0], F_SETFD, FD_CLOEXEC);
		sock_of[i] = sock[0];
	}
	set_up_env("ioasid-soak", shared->uuid);
	model_init();
}

static bool run_random(__u64 seed, unsigned long total, unsigned long seconds)
{
	__u64 start = now_us(), told = start;
	struct op seq[SEQ_LEN];
	unsigned long done;
	int i, at;

	for (done = 0; done < total; done += SEQ_LEN) {
		if (seconds && now_us() - start > seconds * 1000000ull)
			break;
		/* Seed each sequence, so that it can be repeated on its own */
		rng = seed + done;
		for (i = 0; i < SEQ_LEN; i++)
			make_op(&seq[i]);
		at = run_sequence(seq, SEQ_LEN);
		if (at >= 0) {
			ksft_print_msg("seed %llu fails\n", seed + done);
			report_failure(seq, SEQ_LEN, at);
			return false;
		}
		if (now_us() - told > 30000000) {
			told = now_us();
			ksft_print_msg("%lu operations, %llu s\n",
				       done + SEQ_LEN,
				       (told - start) / 1000000ull);
		}
	}
	ksft_print_msg("%lu good answers, %lu streams cut off, %lu not\n",
		       succeeded, cut_off, went_on);
	ksft_print_msg("soak: %lu operations, seed %llu, %llu s\n", done, seed,
		       (now_us() - start) / 1000000ull);
	return true;
}

static bool replay(const char *path)
{
	static struct op seq[100 * SEQ_LEN];
	int count = read_ops(path, seq, 100 * SEQ_LEN);
	int at;

	if (count <= 0)
		ksft_exit_fail_msg("no operations in %s\n", path);
	at = run_sequence(seq, count);
	if (at >= 0)
		ksft_print_msg("operation %d: %s\n", at, why);
	return at < 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "ops", required_argument, NULL, 'n' },
		{ "seed", required_argument, NULL, 's' },
		{ "seconds", required_argument, NULL, 't' },
		{ "replay", required_argument, NULL, 'r' },
		{}
	};
	const char *file = NULL;
	unsigned long total = setting("SOAK_OPS", times(20000));
	unsigned long seconds = setting("SOAK_SECONDS", 0);
	__u64 seed = setting("SOAK_SEED", 1);
	int c;

	if (argc == 4 && !strcmp(argv[1], "--actor"))
		return actor_main(argv[2], argv[3]);
	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'n':
			total = strtoul(optarg, NULL, 0);
			break;
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 't':
			seconds = strtoul(optarg, NULL, 0);
			break;
		case 'r':
			file = optarg;
			break;
		default:
			return KSFT_FAIL;
		}
	}

	ksft_print_header();
	if (access(IOASID_DEV, R_OK | W_OK))
		ksft_exit_skip("no " IOASID_DEV "\n");
	ksft_set_plan(2);
	setup();
	ksft_print_msg("seed %llu, %lu operations; %u engines, %s KVM, %s cgroup\n",
		       seed, total, env.engines, env.kvm ? "with" : "no",
		       env.cgroup ? "with" : "no");
	ksft_test_result(file ? replay(file) :
				run_random(seed, total, seconds),
			 "every_answer_is_that_of_the_model\n");
	clean_up();
	ksft_test_result(tear_down_env(shared->uuid), "nothing_is_left\n");
	ksft_finished();
}
