/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Start virtual machines with QEMU, and talk to vmm_guest in them
 *
 * Each machine has an emulated IOMMU and, usually, an assigned mediated device.
 * Functions that can fail return 0, a value or -errno. The environment selects
 * the programs:
 *
 * VMM_QEMU		QEMU with the ioasid object
 * VMM_STOCK_QEMU	QEMU without support for IOASIDs
 * VMM_MDEVCTL		mdevctl
 * VMM_GUESTS		a folder with one folder per guest, each with a vmlinuz
 *			and an initramfs.gz
 */
#ifndef __SELFTEST_IOASID_VMM_UTILS_H
#define __SELFTEST_IOASID_VMM_UTILS_H

#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "ioasid_utils.h"
#include "ioasid_watch.h"
#include "pdma_utils.h"

#define VMM_MEM_MIB	"256"
#define VMM_MEM_LEN	(256 << 20)

/* Slot of the guest's device, or of the root port above it */
#define VMM_SLOT	"5"
#define VMM_FUNCTION	"0000:00:05.0"
#define VMM_PORT	"pcie-root-port,id=rp,bus=pcie.0,addr=6,chassis=1"
#define VMM_MAX_ARGS	64
#define VMM_LINE	1024

/* Time to boot a guest in an emulated host */
#define VMM_BOOT_MS	280000

/* Pages of the guest's DMA buffer */
#define VMM_BUF_PAGES	(PDMA_GUEST_BUF_LEN / PDMA_PAGE_SIZE)

/**
 * struct vmm_config - how to start a virtual machine
 * @qemu: path of QEMU
 * @guest: name of the folder in VMM_GUESTS
 * @ioasid: properties of QEMU's ioasid object, NULL: no object
 * @port: put the device behind a root port, so that it can be unplugged
 * @fd: descriptor for QEMU to inherit, or -1
 * @more: further arguments, terminated by NULL, or NULL
 */
struct vmm_config {
	const char *qemu;
	const char *guest;
	const char *ioasid;
	bool port;
	int fd;
	const char *const *more;
};

/**
 * struct vmm - a virtual machine
 * @pid: process of QEMU, 0 after it has been reaped
 * @status: exit status from waitpid(), valid if @pid is 0
 * @port: socket to vmm_guest
 * @qmp: socket to QEMU's monitor
 * @greeted: the monitor accepts commands
 * @uuid: the mediated device, or an empty string
 * @dir: folder with the guest's memory and QEMU's output
 * @mem: the guest's memory, mapped here; outlives QEMU
 * @page: guest physical addresses of the pages of the DMA buffer
 * @release: release of the guest's kernel
 * @answer: last answer of vmm_guest or of the monitor
 * @in: input from @port and @qmp that is not a whole line yet
 */
struct vmm {
	pid_t pid;
	int status;
	int port;
	int qmp;
	bool greeted;
	char uuid[PDMA_UUID_LEN + 1];
	char dir[32];
	char *mem;
	__u64 page[VMM_BUF_PAGES];
	char release[65];
	char answer[VMM_LINE];
	struct vmm_input {
		char buf[16384];
		size_t len;
	} in[2];
};

static inline const char *vmm_path(char path[PDMA_PATH_LEN], const char *dir,
				   const char *name, const char *file)
{
	snprintf(path, PDMA_PATH_LEN, "%s/%s%s%s", dir, name, file ? "/" : "",
		 file ?: "");
	return path;
}

/* Returns NULL, or the reason why no virtual machine can be started */
static inline const char *vmm_missing(void)
{
	if (!getenv("VMM_QEMU") || !getenv("VMM_GUESTS"))
		return "VMM_QEMU and VMM_GUESTS are not set";
	if (access("/dev/kvm", R_OK | W_OK))
		return "no KVM";
	return NULL;
}

static inline bool vmm_has_guest(const char *guest)
{
	char path[PDMA_PATH_LEN];

	return pdma_exists(vmm_path(path, getenv("VMM_GUESTS"), guest,
				    "vmlinuz"));
}

/* Start and end */

/* Whether QEMU is running */
static inline bool vmm_runs(struct vmm *vm)
{
	if (vm->pid && waitpid(vm->pid, &vm->status, WNOHANG) == vm->pid)
		vm->pid = 0;
	return vm->pid;
}

static inline bool vmm_wait_end(struct vmm *vm)
{
	return wait_until(!vmm_runs(vm));
}

/* On return QEMU has exited and its files are closed */
static inline void vmm_kill(struct vmm *vm)
{
	if (vmm_runs(vm)) {
		kill(vm->pid, SIGKILL);
		waitpid(vm->pid, &vm->status, 0);
		vm->pid = 0;
	}
}

static inline int vmm_open_memory(struct vmm *vm)
{
	char path[PDMA_PATH_LEN];
	int fd = open(vmm_path(path, vm->dir, "mem", NULL),
		      O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	void *mem;

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, VMM_MEM_LEN)) {
		close(fd);
		return -errno;
	}
	mem = mmap(NULL, VMM_MEM_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		   0);
	close(fd);
	if (mem == MAP_FAILED)
		return -errno;
	vm->mem = mem;
	return 0;
}

static inline void __attribute__((noreturn))
vmm_exec(struct vmm *vm, const struct vmm_config *config, int port, int qmp)
{
	char kernel[PDMA_PATH_LEN], initrd[PDMA_PATH_LEN];
	char console[PDMA_PATH_LEN], errors[PDMA_PATH_LEN];
	char mem[128], ioasid[128], iommu[192], mdev[128], ch_port[64],
	     ch_qmp[64];
	/*
	 * Each byte on the console is a VM exit, so print little. Reboot on
	 * panic. Allow vmm_guest to map the IOMMU registers.
	 */
	const char *argv[VMM_MAX_ARGS] = {
		config->qemu, "-nodefaults", "-no-user-config",
		"-display", "none",
		"-L", "/usr/share/seabios", "-L", "/usr/share/qemu",
		"-M", "q35,kernel-irqchip=split,memory-backend=mem",
		"-accel", "kvm", "-cpu", "host", "-m", VMM_MEM_MIB "M",
		"-object", mem, "-device", iommu,
		"-serial", console,
		"-chardev", ch_port, "-serial", "chardev:port",
		"-chardev", ch_qmp, "-mon", "chardev=qmp,mode=control",
		"-kernel", kernel, "-initrd", initrd,
		"-append", "console=ttyS0 loglevel=4 panic=-1 iomem=relaxed",
	};
	const char *const *more;
	int argc = 0, fd;

	vmm_path(kernel, getenv("VMM_GUESTS"), config->guest, "vmlinuz");
	vmm_path(initrd, getenv("VMM_GUESTS"), config->guest, "initramfs.gz");
	snprintf(mem, sizeof(mem), "memory-backend-file,id=mem,share=on,size="
		 VMM_MEM_MIB "M,mem-path=%s/mem", vm->dir);
	snprintf(ioasid, sizeof(ioasid), "ioasid,id=pasids%s%s",
		 config->ioasid && config->ioasid[0] ? "," : "",
		 config->ioasid ?: "");
	snprintf(iommu, sizeof(iommu),
		 "intel-iommu,x-scalable-mode=on,x-pasid-mode=on,intremap=on,caching-mode=on%s",
		 config->ioasid ? ",ioasid=pasids" : "");
	snprintf(mdev, sizeof(mdev),
		 "vfio-pci,id=pdma,%s,sysfsdev=/sys/bus/mdev/devices/%s",
		 config->port ? "bus=rp" : "addr=" VMM_SLOT, vm->uuid);
	snprintf(console, sizeof(console), "file:%s/console", vm->dir);
	snprintf(ch_port, sizeof(ch_port), "socket,id=port,fd=%d", port);
	snprintf(ch_qmp, sizeof(ch_qmp), "socket,id=qmp,fd=%d", qmp);

	while (argv[argc])
		argc++;
	if (config->ioasid) {
		argv[argc++] = "-object";
		argv[argc++] = ioasid;
	}
	if (config->port) {
		argv[argc++] = "-device";
		argv[argc++] = VMM_PORT;
	}
	if (vm->uuid[0]) {
		argv[argc++] = "-device";
		argv[argc++] = mdev;
	}
	for (more = config->more; more && *more && argc < VMM_MAX_ARGS - 1;
	     more++)
		argv[argc++] = *more;

	vmm_path(errors, vm->dir, "errors", NULL);
	fd = open(errors, O_WRONLY | O_CREAT | O_APPEND, 0600);
	dup2(fd, 1);
	dup2(fd, 2);
	close(fd);
	fcntl(port, F_SETFD, 0);
	fcntl(qmp, F_SETFD, 0);
	if (config->fd >= 0)
		fcntl(config->fd, F_SETFD, 0);
	execv(argv[0], (char **)argv);
	_exit(127);
}

/*
 * Start a machine with a new mediated device of @parent, or without a device if
 * @parent is NULL. Call vmm_close() afterwards even if this fails.
 */
static inline int vmm_start(struct vmm *vm, const char *parent,
			    const struct vmm_config *config)
{
	int port[2], qmp[2], ret;

	*vm = (struct vmm){ .port = -1, .qmp = -1 };
	strcpy(vm->dir, "/dev/shm/vmm-XXXXXX");
	if (!mkdtemp(vm->dir)) {
		vm->dir[0] = 0;
		return -errno;
	}
	ret = vmm_open_memory(vm);
	if (!ret && parent)
		ret = pdma_create(parent, vm->uuid);
	if (ret) {
		vm->uuid[0] = 0;
		return ret;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, port))
		return -errno;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, qmp)) {
		ret = -errno;
		close(port[0]);
		close(port[1]);
		return ret;
	}
	vm->port = port[0];
	vm->qmp = qmp[0];
	vm->pid = fork();
	if (!vm->pid)
		vmm_exec(vm, config, port[1], qmp[1]);
	close(port[1]);
	close(qmp[1]);
	if (vm->pid < 0) {
		vm->pid = 0;
		return -errno;
	}
	return 0;
}

static inline void vmm_remove_file(struct vmm *vm, const char *name)
{
	char path[PDMA_PATH_LEN];

	unlink(vmm_path(path, vm->dir, name, NULL));
}

/* Kill QEMU if it runs, and free everything. Returns pdma_remove()'s error. */
static inline int vmm_close(struct vmm *vm)
{
	int ret = 0;

	vmm_kill(vm);
	if (vm->port >= 0)
		close(vm->port);
	if (vm->qmp >= 0)
		close(vm->qmp);
	vm->port = -1;
	vm->qmp = -1;
	if (vm->uuid[0])
		ret = pdma_remove(vm->uuid);
	vm->uuid[0] = 0;
	if (vm->mem)
		munmap(vm->mem, VMM_MEM_LEN);
	vm->mem = NULL;
	if (vm->dir[0]) {
		vmm_remove_file(vm, "mem");
		vmm_remove_file(vm, "console");
		vmm_remove_file(vm, "errors");
		rmdir(vm->dir);
	}
	vm->dir[0] = 0;
	return ret;
}

/* Whether @text is in QEMU's output */
static inline bool vmm_said(struct vmm *vm, const char *text)
{
	char path[PDMA_PATH_LEN], line[VMM_LINE];
	bool found = false;
	FILE *f;

	f = fopen(vmm_path(path, vm->dir, "errors", NULL), "r");
	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, text);
	if (f)
		fclose(f);
	return found;
}

/* Line-based I/O */

/* Read a line from @fd without its end. Returns -EPIPE at end of file. */
static inline int vmm_read_line(struct vmm_input *in, int fd, char *line,
				size_t len, unsigned int ms)
{
	__u64 end = pdma_now_ms() + ms, now;
	ssize_t n;
	char *lf;

	while (!(lf = memchr(in->buf, '\n', in->len))) {
		struct pollfd pollfd = { .fd = fd, .events = POLLIN };

		/* Drop lines that are too long to be of interest */
		if (in->len == sizeof(in->buf))
			in->len = 0;
		now = pdma_now_ms();
		if (poll(&pollfd, 1, now < end ? end - now : 0) <= 0)
			return -ETIMEDOUT;
		n = read(fd, in->buf + in->len, sizeof(in->buf) - in->len);
		if (n <= 0)
			return -EPIPE;
		in->len += n;
	}
	*lf = 0;
	in->buf[strcspn(in->buf, "\r")] = 0;
	n = strlen(in->buf);
	if ((size_t)n >= len)
		n = len - 1;
	memcpy(line, in->buf, n);
	line[n] = 0;
	in->len -= lf + 1 - in->buf;
	memmove(in->buf, lf + 1, in->len);
	return 0;
}

static inline int vmm_write_line(int fd, const char *line)
{
	size_t len = strlen(line);

	return send(fd, line, len, MSG_NOSIGNAL) == (ssize_t)len ? 0 : -EPIPE;
}

/* QEMU's monitor */

/*
 * Run a command with these arguments; the line with its result is in @answer. A
 * command that saves a guest replies after it has completed.
 */
static inline int vmm_qmp(struct vmm *vm, const char *name, const char *args)
{
	char line[VMM_LINE];
	int ret;

	/* QEMU accepts single quotes */
	snprintf(line, sizeof(line), "{'execute': '%s', 'arguments': {%s}}\n",
		 name, args);
	ret = vmm_write_line(vm->qmp, line);
	do {
		if (!ret)
			ret = vmm_read_line(&vm->in[1], vm->qmp, vm->answer,
					    sizeof(vm->answer), VMM_BOOT_MS);
		if (ret)
			return ret;
		if (!strncmp(vm->answer, "{\"error\"", 8))
			return -EINVAL;
	} while (strncmp(vm->answer, "{\"return\"", 9));
	return 0;
}

/* Negotiate capabilities, before which the monitor rejects commands */
static inline int vmm_qmp_hello(struct vmm *vm)
{
	int ret = vm->greeted ? 0 : vmm_qmp(vm, "qmp_capabilities", "");

	vm->greeted = !ret;
	return ret;
}

/* Print the output of QEMU and of the guest's console as diagnostics */
static inline void vmm_show(struct vmm *vm)
{
	static const char *const names[] = { "errors", "console" };
	char path[PDMA_PATH_LEN], line[8 * VMM_LINE];
	unsigned int i;
	FILE *f;

	for (i = 0; i < 2; i++) {
		f = fopen(vmm_path(path, vm->dir, names[i], NULL), "r");
		while (f && fgets(line, sizeof(line), f))
			printf("# %s: %.*s\n", names[i],
			       (int)strcspn(line, "\r\n"), line);
		if (f)
			fclose(f);
	}
	if (!vm->greeted)
		return;
	/* In case the guest hangs, show what it is executing */
	snprintf(line, sizeof(line),
		 "{'execute': '%s', 'arguments': {'command-line': '%s'}}\n",
		 "human-monitor-command", "info registers");
	if (!vmm_write_line(vm->qmp, line) &&
	    !vmm_read_line(&vm->in[1], vm->qmp, line, sizeof(line),
			   IOASID_WAIT_MS))
		printf("# registers: %s\n", line);
}

/* The guest */

/*
 * Send a command to vmm_guest. Returns the first number of the answer, or
 * -errno: the guest's error, -EPIPE if QEMU has exited, -ETIMEDOUT without an
 * answer.
 */
static inline long long __attribute__((format(printf, 2, 3)))
vmm_ask(struct vmm *vm, const char *fmt, ...)
{
	char line[VMM_LINE];
	long long number;
	va_list args;
	int ret;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line) - 1, fmt, args);
	va_end(args);
	strcat(line, "\n");
	ret = vmm_write_line(vm->port, line);
	if (!ret)
		ret = vmm_read_line(&vm->in[0], vm->port, vm->answer,
				    sizeof(vm->answer), IOASID_WAIT_MS);
	if (ret)
		return ret;
	if (sscanf(vm->answer, "error %lld", &number) == 1)
		return -number;
	if (strncmp(vm->answer, "ok", 2))
		return -EBADMSG;
	return sscanf(vm->answer, "ok %lld", &number) == 1 ? number : 0;
}

/* Query the guest physical addresses of the DMA buffer */
static inline int vmm_find_buffer(struct vmm *vm)
{
	long long ret = vmm_ask(vm, "where");
	char *next = vm->answer + 2;
	unsigned int i;

	if (ret < 0)
		return ret;
	for (i = 0; i < VMM_BUF_PAGES; i++) {
		vm->page[i] = strtoull(next, &next, 10);
		if (!vm->page[i] ||
		    vm->page[i] > VMM_MEM_LEN - PDMA_PAGE_SIZE)
			return -EFAULT;
	}
	return 0;
}

/* Wait until the guest has booted and has opened its device, if any */
static inline int vmm_wait_booted(struct vmm *vm)
{
	char line[VMM_LINE];
	int ret, error;

	do {
		ret = vmm_read_line(&vm->in[0], vm->port, line, sizeof(line),
				    VMM_BOOT_MS);
		if (ret)
			return ret;
	} while (sscanf(line, "ready %d %64s", &error, vm->release) != 2);
	if (error && (error != ENODEV || vm->uuid[0]))
		return -error;
	return vmm_qmp_hello(vm);
}

static inline int vmm_wait_ready(struct vmm *vm)
{
	int ret = vmm_wait_booted(vm);

	return ret ?: vmm_find_buffer(vm);
}

/* A page of the guest's DMA buffer, mapped in this process */
static inline volatile __u64 *vmm_page(struct vmm *vm, unsigned int page)
{
	return (volatile __u64 *)(vm->mem + vm->page[page]);
}

static inline int vmm_alloc(struct vmm *vm)
{
	return vmm_ask(vm, "alloc");
}

static inline int vmm_free(struct vmm *vm, __u32 pasid)
{
	return vmm_ask(vm, "free %u", pasid);
}

static inline int vmm_bind(struct vmm *vm, unsigned int ch, __u32 pasid)
{
	return vmm_ask(vm, "bind %u %u", ch, pasid);
}

static inline int vmm_submit(struct vmm *vm, unsigned int ch, __u32 cmd,
			     __u64 src, __u64 dst, __u32 len, __u32 period)
{
	return vmm_ask(vm, "submit %u %u %llu %llu %u %u 0", ch, cmd,
		       (unsigned long long)src, (unsigned long long)dst, len,
		       period);
}

static inline int vmm_stream(struct vmm *vm, unsigned int ch, __u64 dst,
			     __u32 len, __u32 period)
{
	return vmm_submit(vm, ch, PDMA_CMD_STREAM, 0, dst, len, period);
}

static inline int vmm_stop(struct vmm *vm, unsigned int ch)
{
	return vmm_submit(vm, ch, PDMA_CMD_STOP, 0, 0, 0, 0);
}

/* Read a register of BAR 0 in the guest */
static inline __u64 vmm_read32(struct vmm *vm, size_t reg)
{
	return vmm_ask(vm, "read %zu 4", reg);
}

static inline __u64 vmm_read64(struct vmm *vm, size_t reg)
{
	return vmm_ask(vm, "read %zu 8", reg);
}

static inline __u64 vmm_counter(struct vmm *vm, unsigned int ch)
{
	return vmm_read64(vm, PDMA_MDEV_STATUS(ch) + PDMA_COUNTER);
}

static inline __u64 vmm_refused(struct vmm *vm, unsigned int ch)
{
	return vmm_read64(vm, PDMA_MDEV_STATUS(ch) + PDMA_REFUSED_COUNT);
}

/* Copy @len bytes within the DMA buffer, and compare them in the guest */
static inline int vmm_copy(struct vmm *vm, unsigned int ch, __u64 dst,
			   __u64 src, __u32 len)
{
	size_t reg = PDMA_MDEV_STATUS(ch) + PDMA_STATUS;
	int ret;

	ret = vmm_submit(vm, ch, PDMA_CMD_COPY, src, dst, len, 0);
	if (ret)
		return ret;
	if (!wait_until(!(vmm_read32(vm, reg) & PDMA_STATUS_BUSY)))
		return -ETIMEDOUT;
	if (!(vmm_read32(vm, reg) & PDMA_STATUS_DONE))
		return -EIO;
	return vmm_ask(vm, "compare %llu %llu %u", (unsigned long long)dst,
		       (unsigned long long)src, len) ? -EIO : 0;
}

/* Number of lines of the guest's kernel log with @text; _ stands for a space */
static inline int vmm_log(struct vmm *vm, const char *text)
{
	return vmm_ask(vm, "log %s", text);
}

/* The host's view */

#define VMM_MAX_IDS 4096

/* Store the IDs of all IOASIDs of the host. Returns their number. */
static inline int debugfs_ids(__u32 ids[VMM_MAX_IDS])
{
	FILE *f = fopen("/sys/kernel/debug/ioasid/ioasids", "r");
	char line[256];
	int n = 0;

	if (!f)
		return -errno;
	while (n < VMM_MAX_IDS && fgets(line, sizeof(line), f)) {
		ids[n] = strtoul(line, NULL, 10);
		/* Skip the heading */
		n += !!ids[n];
	}
	fclose(f);
	return n;
}

/* Number of IOASIDs not in @except; @id is the last of these, or 0 */
static inline int debugfs_others(const __u32 *except, unsigned int count,
				 __u32 *id)
{
	__u32 ids[VMM_MAX_IDS];
	int n = debugfs_ids(ids), others = 0, i;
	unsigned int j;

	*id = 0;
	for (i = 0; i < n; i++) {
		for (j = 0; j < count && except[j] != ids[i]; j++)
			;
		if (j < count)
			continue;
		*id = ids[i];
		others++;
	}
	return n < 0 ? n : others;
}

/* Whether debugfs lists @id with this state and these holders */
static inline bool vmm_row_is(__u32 id, const char *state, const char *holders)
{
	struct ioasid_row row;

	return !debugfs_ioasid(id, &row) && !strcmp(row.state, state) &&
	       !strcmp(row.holders, holders);
}

static inline bool vmm_wait_recycled(__u32 id)
{
	struct ioasid_row row;

	return wait_until(debugfs_ioasid(id, &row) == -ENOENT);
}

#define VMM_POISON 0x5a5a5a5a5a5a5a5aULL

static inline void vmm_poison(struct vmm *vm, unsigned int page)
{
	volatile __u64 *p = vmm_page(vm, page);
	unsigned int i;

	for (i = 0; i < PDMA_PAGE_SIZE / sizeof(*p); i++)
		p[i] = VMM_POISON;
}

/* Number of values in the page overwritten since vmm_poison() */
static inline unsigned int vmm_written(struct vmm *vm, unsigned int page)
{
	volatile __u64 *p = vmm_page(vm, page);
	unsigned int i, n = 0;

	for (i = 0; i < PDMA_PAGE_SIZE / sizeof(*p); i++)
		n += p[i] != VMM_POISON;
	return n;
}

#endif
