import numpy as np

from overnet.imaging.sample_images import centre_crop


def test_the_centre_of_an_image(image):
    assert np.array_equal(centre_crop(image, 20), image[15:35, 23:43])
    assert np.array_equal(centre_crop(image, 60), image[:, 3:63])
