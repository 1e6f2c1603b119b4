// SPDX-License-Identifier: GPL-2.0-only
/*
 * The init process of the guests of ioasid_vmm
 *
 * Loads the driver of the mediated DMA device (samples/vfio-mdev/pdma-guest.c)
 * and executes commands from the second serial port. Commands and answers are
 * single lines; an answer is "ok" and numbers, or "error" and an errno. The
 * program on the host checks the results.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <linux/types.h>

#include "../../../../samples/vfio-mdev/pdma.h"

#define MODULE		"/pdma-guest.ko"
#define PORT		"/dev/ttyS1"
#define MAX_WORDS	12

/* IOMMU registers of QEMU's q35 machine */
#define VTD_BASE	0xfed90000
#define VTD_LEN		0x1000

static FILE *commands, *port;
static int device = -1;
static unsigned char *buf;
static volatile char *vtd;

static void __attribute__((noreturn)) give_up(const char *what)
{
	printf("vmm_guest: %s: %s\n", what, strerror(errno));
	fflush(stdout);
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static void __attribute__((format(printf, 1, 2))) answer(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vfprintf(port, fmt, args);
	va_end(args);
	fputc('\n', port);
	fflush(port);
}

static void answer_ret(int ret)
{
	if (ret < 0)
		answer("error %d", -ret);
	else
		answer("ok %d", ret);
}

static __u64 now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ULL + ts.tv_nsec / 1000000;
}

static __u64 number(const char *word)
{
	return strtoull(word, NULL, 0);
}

/* The device */

static void close_device(void)
{
	if (buf)
		munmap(buf, PDMA_GUEST_BUF_LEN);
	buf = NULL;
	if (device >= 0)
		close(device);
	device = -1;
}

static int open_device(void)
{
	char path[NAME_MAX + 8];
	struct dirent *entry;
	int ret = -ENODEV;
	void *p;
	DIR *dir;

	close_device();
	dir = opendir("/dev");
	while (dir && ret && (entry = readdir(dir))) {
		if (strncmp(entry->d_name, PDMA_GUEST_DRIVER,
			    strlen(PDMA_GUEST_DRIVER)))
			continue;
		snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
		device = open(path, O_RDWR | O_CLOEXEC);
		ret = device < 0 ? -errno : 0;
	}
	if (dir)
		closedir(dir);
	if (ret)
		return ret;

	p = mmap(NULL, PDMA_GUEST_BUF_LEN, PROT_READ | PROT_WRITE, MAP_SHARED,
		 device, 0);
	if (p == MAP_FAILED) {
		ret = -errno;
		close_device();
		return ret;
	}
	buf = p;
	return 0;
}

static void set_field(char *cmd, size_t offset, __u64 val, size_t len)
{
	memcpy(cmd + offset, &val, len);
}

/* Arguments: channel, command, source, destination, length, period, burst */
static int submit(char **arg)
{
	char cmd[PDMA_SUBMIT_SIZE] = {};

	set_field(cmd, PDMA_SUBMIT_CMD, number(arg[1]), 4);
	set_field(cmd, PDMA_SUBMIT_SRC, number(arg[2]), 8);
	set_field(cmd, PDMA_SUBMIT_DST, number(arg[3]), 8);
	set_field(cmd, PDMA_SUBMIT_LEN, number(arg[4]), 4);
	set_field(cmd, PDMA_SUBMIT_PERIOD, number(arg[5]), 4);
	set_field(cmd, PDMA_SUBMIT_BURST, number(arg[6]), 4);
	return pwrite(device, cmd, sizeof(cmd),
		      PDMA_MDEV_CHANNEL(number(arg[0]))) < 0 ? -errno : 0;
}

static void read_register(size_t reg, size_t len)
{
	__u64 val = 0;

	if (len > sizeof(val))
		len = sizeof(val);
	if (pread(device, &val, len, reg) < 0)
		answer("error %d", errno);
	else
		answer("ok %llu", (unsigned long long)val);
}

/* Print the physical addresses of all pages of the buffer */
static void where(void)
{
	long page = sysconf(_SC_PAGESIZE);
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	size_t i;
	__u64 entry;

	if (fd < 0) {
		answer("error %d", errno);
		return;
	}
	fputs("ok", port);
	for (i = 0; i < PDMA_GUEST_BUF_LEN; i += page) {
		if (pread(fd, &entry, sizeof(entry), ((uintptr_t)buf + i) /
			  page * sizeof(entry)) != sizeof(entry))
			entry = 0;
		/* Bits 0 to 54 are the page frame number */
		fprintf(port, " %llu",
			(unsigned long long)(entry & ((1ULL << 55) - 1)) * page);
	}
	answer("%s", "");
	close(fd);
}

static size_t count_bytes(size_t offset, size_t len, int byte)
{
	size_t i, n = 0;

	for (i = offset; i < offset + len; i++)
		n += buf[i] == byte;
	return n;
}

/* Fill part of the buffer with a pattern that reveals misplaced bytes */
static void pattern(size_t offset, size_t len)
{
	size_t i;

	for (i = 0; i < len; i++)
		buf[offset + i] = i * 13 + i / 256 + 1;
}

static bool in_buffer(__u64 offset, __u64 len)
{
	return buf && offset <= PDMA_GUEST_BUF_LEN &&
	       len <= PDMA_GUEST_BUF_LEN - offset;
}

/* Access to the IOMMU bypassing its driver */

static int map_vtd(void)
{
	void *p;
	int fd;

	if (vtd)
		return 0;
	fd = open("/dev/mem", O_RDWR | O_SYNC | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	p = mmap(NULL, VTD_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		 VTD_BASE);
	close(fd);
	if (p == MAP_FAILED)
		return -errno;
	vtd = p;
	return 0;
}

static void read_vtd(size_t reg, size_t len)
{
	int ret = map_vtd();

	if (ret)
		answer("error %d", -ret);
	else if (len == 4)
		answer("ok %llu", (unsigned long long)*(volatile __u32 *)(vtd + reg));
	else
		answer("ok %llu", (unsigned long long)*(volatile __u64 *)(vtd + reg));
}

static int write_vtd(size_t reg, size_t len, __u64 val)
{
	int ret = map_vtd();

	if (ret)
		return ret;
	if (len == 4)
		*(volatile __u32 *)(vtd + reg) = val;
	else
		*(volatile __u64 *)(vtd + reg) = val;
	return 0;
}

#define VCMD		0xe00
#define VCRSP		0xe10
#define VCRSP_IP	1
#define VCRSP_RESULT(r)	((r) >> 16)

/* Execute a virtual command and return the response register */
static __u64 virtual_command(__u64 cmd)
{
	volatile __u64 *response = (volatile __u64 *)(vtd + VCRSP);

	*(volatile __u64 *)(vtd + VCMD) = cmd;
	while (*response & VCRSP_IP)
		;
	return *response;
}

/*
 * Issue virtual commands for @ms milliseconds: allocate a PASID, free it, free
 * it again, and free one that was never allocated. Returns the number of
 * commands.
 */
static int storm(unsigned int ms)
{
	__u64 end = now_ms() + ms, pasid;
	int ret = map_vtd(), n = 0;

	if (ret)
		return ret;
	do {
		pasid = VCRSP_RESULT(virtual_command(1));
		virtual_command(2 | pasid << 16);
		virtual_command(2 | pasid << 16);
		virtual_command(2 | (__u64)(0x80000 + n) << 16);
		n += 4;
	} while (now_ms() < end);
	return n;
}

/* Allocate, bind, unbind and free a PASID, @n times */
static int cycle(unsigned int ch, unsigned int n)
{
	unsigned long bind = (unsigned long)ch << PDMA_GUEST_BIND_SHIFT;
	int pasid;

	while (n--) {
		pasid = ioctl(device, PDMA_GUEST_ALLOC, 0);
		if (pasid < 0 ||
		    ioctl(device, PDMA_GUEST_BIND, bind | pasid) ||
		    ioctl(device, PDMA_GUEST_BIND, bind) ||
		    ioctl(device, PDMA_GUEST_FREE, pasid))
			return -errno;
	}
	return 0;
}

/* Print how many lines of the kernel log contain @text, and the last one */
static void count_log(const char *text)
{
	static char line[8192], found[512];
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	unsigned int n = 0;
	ssize_t len;
	char *msg;

	found[0] = 0;
	while ((len = read(fd, line, sizeof(line) - 1)) > 0 || errno == EPIPE) {
		if (len <= 0)
			continue;
		line[len] = 0;
		line[strcspn(line, "\n")] = 0;
		msg = strchr(line, ';');
		if (!msg || !strstr(msg, text))
			continue;
		n++;
		snprintf(found, sizeof(found), "%s", msg + 1);
	}
	if (fd >= 0)
		close(fd);
	answer("ok %u %s", n, found);
}

static void __attribute__((noreturn)) end(int how)
{
	answer("ok");
	/* Make sure that the answer is sent */
	tcdrain(fileno(port));
	reboot(how);
	give_up("reboot");
}

static int write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = write(fd, text, strlen(text)) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

/* Whether @word is the command @name with @n arguments */
static bool is(int words, char **word, const char *name, int n)
{
	return !strcmp(word[0], name) && words == n + 1;
}

static void do_command(int words, char **word)
{
	char **arg = word + 1;

	if (is(words, word, "open", 0)) {
		answer_ret(open_device());
	} else if (is(words, word, "close", 0)) {
		close_device();
		answer_ret(0);
	} else if (is(words, word, "alloc", 0)) {
		int ret = ioctl(device, PDMA_GUEST_ALLOC, 0);

		answer_ret(ret < 0 ? -errno : ret);
	} else if (is(words, word, "free", 1)) {
		int ret = ioctl(device, PDMA_GUEST_FREE, number(arg[0]));

		answer_ret(ret < 0 ? -errno : 0);
	} else if (is(words, word, "bind", 2)) {
		int ret = ioctl(device, PDMA_GUEST_BIND,
				number(arg[0]) << PDMA_GUEST_BIND_SHIFT |
				number(arg[1]));

		answer_ret(ret < 0 ? -errno : 0);
	} else if (is(words, word, "submit", 7)) {
		answer_ret(submit(arg));
	} else if (is(words, word, "read", 2)) {
		read_register(number(arg[0]), number(arg[1]));
	} else if (is(words, word, "where", 0) && buf) {
		where();
	} else if (is(words, word, "fill", 3) &&
		   in_buffer(number(arg[0]), number(arg[1]))) {
		memset(buf + number(arg[0]), number(arg[2]), number(arg[1]));
		answer_ret(0);
	} else if (is(words, word, "count", 3) &&
		   in_buffer(number(arg[0]), number(arg[1]))) {
		answer("ok %zu", count_bytes(number(arg[0]), number(arg[1]),
					     number(arg[2])));
	} else if (is(words, word, "pattern", 2) &&
		   in_buffer(number(arg[0]), number(arg[1]))) {
		pattern(number(arg[0]), number(arg[1]));
		answer_ret(0);
	} else if (is(words, word, "compare", 3) &&
		   in_buffer(number(arg[0]), number(arg[2])) &&
		   in_buffer(number(arg[1]), number(arg[2]))) {
		answer_ret(!!memcmp(buf + number(arg[0]), buf + number(arg[1]),
				    number(arg[2])));
	} else if (is(words, word, "value", 1) &&
		   in_buffer(number(arg[0]), sizeof(__u64))) {
		answer("ok %llu", *(volatile unsigned long long *)(buf +
			number(arg[0])));
	} else if (is(words, word, "vtd-read", 2)) {
		read_vtd(number(arg[0]), number(arg[1]));
	} else if (is(words, word, "vtd-write", 3)) {
		answer_ret(write_vtd(number(arg[0]), number(arg[1]),
				     number(arg[2])));
	} else if (is(words, word, "storm", 1)) {
		answer_ret(storm(number(arg[0])));
	} else if (is(words, word, "cycle", 2)) {
		answer_ret(cycle(number(arg[0]), number(arg[1])));
	} else if (is(words, word, "write", 2)) {
		answer_ret(write_file(arg[0], arg[1]));
	} else if (is(words, word, "log", 1)) {
		count_log(arg[0]);
	} else if (is(words, word, "poweroff", 0)) {
		end(RB_POWER_OFF);
	} else if (is(words, word, "reboot", 0)) {
		end(RB_AUTOBOOT);
	} else if (is(words, word, "crash", 0)) {
		answer("ok");
		tcdrain(fileno(port));
		write_file("/proc/sysrq-trigger", "c");
	} else {
		answer("error %d", EINVAL);
	}
}

/* Words are separated by spaces; in "log", _ stands for a space in the text */
static void do_line(char *line)
{
	char *word[MAX_WORDS], *next;
	int words = 0;

	for (next = strtok(line, " \r\n"); next && words < MAX_WORDS;
	     next = strtok(NULL, " \r\n"))
		word[words++] = next;
	if (words == 2 && !strcmp(word[0], "log"))
		for (next = word[1]; *next; next++)
			if (*next == '_')
				*next = ' ';
	if (words)
		do_command(words, word);
}

static void set_up(void)
{
	struct termios tio;
	int fd;

	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);

	fd = open(MODULE, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
		give_up(MODULE);
	close(fd);

	fd = open(PORT, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0 || tcgetattr(fd, &tio))
		give_up(PORT);
	cfmakeraw(&tio);
	cfsetspeed(&tio, B115200);
	if (tcsetattr(fd, TCSANOW, &tio))
		give_up(PORT);
	port = fdopen(fd, "w");
	commands = fdopen(dup(fd), "r");
	if (!port || !commands)
		give_up(PORT);
}

int main(void)
{
	struct utsname name;
	char line[256];
	int ret;

	set_up();
	uname(&name);
	ret = open_device();
	answer("ready %d %s", -ret, name.release);
	while (fgets(line, sizeof(line), commands))
		do_line(line);
	give_up("the other end is gone");
}
