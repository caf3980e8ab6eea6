import java.net.InetAddress;
import java.net.UnknownHostException;

/** Prints what InetAddress gives for a name. */
public class Resolve {
    public static void main(String[] arguments) {
        try {
            for (InetAddress address : InetAddress.getAllByName(arguments[0])) {
                System.out.println("address " + address.getHostAddress());
            }
        } catch (UnknownHostException e) {
            System.out.println("failed UnknownHostException");
        }
    }
}
