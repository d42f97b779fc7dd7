/* Runs a program behind a socket load balancer, as Cilium's is one: connections of its cgroup to one IPv4 address and port
 * are led to another at connect(2), before there is a packet.
 *
 * socklb FOLDER NAME VIP PORT BACKEND PORT -- PROGRAM ARGUMENT...
 *
 * Mounts cgroup2 on the folder, in a mount namespace of its own, makes the cgroup NAME there, enters it and becomes the
 * program. Whoever calls removes the cgroup afterwards, and the kernel the translation with it. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void fail(const char *what)
{
    fprintf(stderr, "socklb: %s: %s\n", what, strerror(errno));
    exit(125);
}

#define LOAD(to, field)                                                                                   \
    { .code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = to, .src_reg = BPF_REG_1,                             \
      .off = offsetof(struct bpf_sock_addr, field) }
#define STORE(field, from)                                                                                \
    { .code = BPF_STX | BPF_MEM | BPF_W, .dst_reg = BPF_REG_1, .src_reg = from,                           \
      .off = offsetof(struct bpf_sock_addr, field) }
#define SET(to, value) { .code = BPF_ALU | BPF_MOV | BPF_K, .dst_reg = to, .imm = value }
#define UNLESS(of, value, skip)                                                                           \
    { .code = BPF_JMP32 | BPF_JNE | BPF_K, .dst_reg = of, .off = skip, .imm = value }

int main(int count, char **words)
{
    if (count < 9 || strcmp(words[7], "--") != 0) {
        fprintf(stderr, "usage: socklb FOLDER NAME VIP PORT BACKEND PORT -- PROGRAM ARGUMENT...\n");
        return 125;
    }
    struct bpf_insn program[] = {
        LOAD(BPF_REG_2, user_ip4),
        UNLESS(BPF_REG_2, (int)inet_addr(words[3]), 6),
        LOAD(BPF_REG_2, user_port),
        UNLESS(BPF_REG_2, htons(atoi(words[4])), 4),
        SET(BPF_REG_2, (int)inet_addr(words[5])),
        STORE(user_ip4, BPF_REG_2),
        SET(BPF_REG_2, htons(atoi(words[6]))),
        STORE(user_port, BPF_REG_2),
        SET(BPF_REG_0, 1),
        { .code = BPF_JMP | BPF_EXIT },
    };
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        fail("have a mount namespace");
    if (mount("none", words[1], "cgroup2", 0, NULL) < 0 || chdir(words[1]) < 0)
        fail("mount cgroup2");
    if (mkdir(words[2], 0755) < 0)
        fail(words[2]);
    int cgroup = open(words[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (cgroup < 0 || chdir("/") < 0)
        fail(words[2]);
    union bpf_attr load;
    memset(&load, 0, sizeof load);
    load.prog_type = BPF_PROG_TYPE_CGROUP_SOCK_ADDR;
    load.expected_attach_type = BPF_CGROUP_INET4_CONNECT;
    load.insns = (unsigned long)program;
    load.insn_cnt = sizeof program / sizeof program[0];
    load.license = (unsigned long)"GPL";
    int loaded = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load);
    if (loaded < 0)
        fail("load the translation");
    union bpf_attr attach;
    memset(&attach, 0, sizeof attach);
    attach.target_fd = cgroup;
    attach.attach_bpf_fd = loaded;
    attach.attach_type = BPF_CGROUP_INET4_CONNECT;
    if (syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach) < 0)
        fail("attach the translation");
    close(loaded);
    int members = openat(cgroup, "cgroup.procs", O_WRONLY | O_CLOEXEC);
    if (members < 0 || dprintf(members, "%d\n", getpid()) < 0)
        fail("enter the cgroup");
    execvp(words[8], words + 8);
    fail(words[8]);
}
