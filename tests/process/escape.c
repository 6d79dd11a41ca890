/* A command that leaves something behind, in one of the ways there are.
 *
 *   escape WAY DRESS END DIR
 *
 * WAY is how it tries to stay, DRESS what it does to its environment (keep, bare: none at all, mimic: another run's mark),
 * END whether the command itself stays or exits. DIR is where `up` is made once everything is on its way; being an
 * argument of every process, it is also what they are all found by. `escape stranger - - DIR` is somebody else's process of the same name.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* A chain of forks ends by itself, so that a test that fails does not fill the machine. */
#define LINKS_MAX 300000

static const char *dir;

static void put(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (file >= 0)
        close(file);
}

static void stay(void)
{
    /* Bounded as well: nobody but the test wants it. */
    for (int i = 0; i < 600; i++)
        sleep(1);
    _exit(0);
}

static void ignore_everything(void)
{
    signal(SIGTERM, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGQUIT, SIG_IGN);
}

static pid_t split(void)
{
    pid_t child;
    /* Where process ids are few there may be none at this moment. */
    while ((child = fork()) < 0 && (errno == EAGAIN || errno == ENOMEM))
        usleep(200);
    return child;
}

/* A chain in which every link is a session of its own and the last one alive forks the next. */
static void chain(void)
{
    ignore_everything();
    for (int link = 0; link < LINKS_MAX; link++) {
        setsid();
        if (split() > 0)
            _exit(0);
        if (link == 20)
            put("left");
        /* The rest of the machine gets its turn, too. */
        usleep(100);
    }
    _exit(0);
}

/* What is left behind, once it stands where it wants to stand. */
static void remain(const char *way)
{
    if (!strcmp(way, "forking"))
        chain();
    put("left");
    if (!strcmp(way, "stopped"))
        raise(SIGSTOP);
    stay();
}

static void leave(const char *way, const char *dress, char **argv)
{
    if (!strcmp(way, "term_ignoring") || !strcmp(way, "stopped"))
        ignore_everything();
    if (!strcmp(way, "setsid"))
        setsid();
    if (!strcmp(way, "double_fork") && split() > 0)
        _exit(0);
    if (!strcmp(way, "daemonized")) {
        setsid();
        if (split() > 0)
            _exit(0);
        umask(0);
        if (chdir("/"))
            _exit(1);
        for (int fd = 0; fd < 256; fd++)
            close(fd);
        open("/dev/null", O_RDWR);
        if (dup(0) < 0 || dup(0) < 0)
            _exit(1);
    }
    if (!strcmp(way, "nohup")) {
        signal(SIGHUP, SIG_IGN);
        int nothing = open("/dev/null", O_RDWR);
        dup2(nothing, 0);
        dup2(nothing, 1);
        dup2(nothing, 2);
    }
    if (!strcmp(dress, "keep"))
        remain(way);
    /* The environment a process was started with is told by the system for as long as it lives: so it starts again. */
    static char mimic[] = "SLUGLINE_RUN=somebody/else";
    char *bare[] = {NULL}, *other[] = {mimic, NULL};
    char *args[] = {argv[0], argv[1], (char *)"settled", argv[3], argv[4], NULL};
    execve("/proc/self/exe", args, !strcmp(dress, "bare") ? bare : other);
    _exit(1);
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 64;
    const char *way = argv[1], *dress = argv[2], *end = argv[3];
    dir = argv[4];
    if (!strcmp(dress, "settled"))
        remain(way);
    if (!strcmp(way, "stranger")) {
        put("stranger");
        stay();
    }
    if (split() == 0)
        leave(way, dress, argv);
    if (!strcmp(way, "term_ignoring"))
        ignore_everything();
    char path[4096];
    snprintf(path, sizeof path, "%s/left", dir);
    while (access(path, F_OK))
        usleep(500);
    put("up");
    if (!strcmp(end, "exits"))
        return 0;
    stay();
}
