/* Prints what getaddrinfo gives for a name (argument 2) in a family (argument 1: 4, 6 or anything for both). */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL, *at;
    char text[INET6_ADDRSTRLEN];
    int error;

    if (argc != 3)
        return 2;
    hints.ai_family = argv[1][0] == '4' ? AF_INET : argv[1][0] == '6' ? AF_INET6 : AF_UNSPEC;
    error = getaddrinfo(argv[2], "80", &hints, &list);
    if (error) {
        printf("failed %s\n", error == EAI_NONAME ? "EAI_NONAME" : error == EAI_AGAIN ? "EAI_AGAIN"
#ifdef EAI_NODATA
                              : error == EAI_NODATA ? "EAI_NODATA"
#endif
                              : gai_strerror(error));
        return 0;
    }
    for (at = list; at; at = at->ai_next) {
        const void *address = at->ai_family == AF_INET
            ? (const void *)&((struct sockaddr_in *)at->ai_addr)->sin_addr
            : (const void *)&((struct sockaddr_in6 *)at->ai_addr)->sin6_addr;
        printf("address %s\n", inet_ntop(at->ai_family, address, text, sizeof text));
    }
    freeaddrinfo(list);
    return 0;
}
